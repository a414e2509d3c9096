//! A client that shows answers as they are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::BodyExt;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::time::timeout;

/// More than any answer takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) const MERGE: &str = "application/merge-patch+json";
pub(crate) const JSON_PATCH: &str = "application/json-patch+json";
pub(crate) const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub(crate) const APPLY: &str = "application/apply-patch+yaml";
pub(crate) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// A server, and a namespace in it that belongs to one case.
pub(crate) struct Api {
    pub(crate) namespace: String,
    pub(crate) kubeconfig: PathBuf,
    client: Client,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Value,
    pub(crate) warnings: Vec<String>,
}

impl Answer {
    /// The body of a success.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!((200..300).contains(&self.code), "{} {}", self.code, self.body);
        self.body
    }

    /// The message of a failure with this code and reason.
    #[track_caller]
    pub(crate) fn failed(self, code: u16, reason: &str) -> String {
        assert_eq!(
            (self.code, self.body["reason"].as_str().unwrap_or_default()),
            (code, reason),
            "{}",
            self.body
        );
        assert_eq!(
            (&self.body["kind"], &self.body["status"], &self.body["code"]),
            (&json!("Status"), &json!("Failure"), &json!(code))
        );
        self.body["message"].as_str().unwrap().to_owned()
    }
}

/// The lines of a watch.
pub(crate) struct Lines {
    body: Body,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next event; `None` when the server ends the watch.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("the watch says nothing")?;
            self.buffer.extend_from_slice(frame.unwrap().data_ref().unwrap());
        }
    }

    /// Type and name of the next event.
    pub(crate) async fn brief(&mut self) -> String {
        let event = self.next().await.expect("the watch has ended");
        format!(
            "{} {}",
            event["type"].as_str().unwrap(),
            event["object"]["metadata"]["name"].as_str().unwrap_or("-")
        )
    }
}

impl Api {
    /// Makes a namespace with a name of its own for the case.
    pub(crate) async fn new(kubeconfig: &Path, case: &str) -> Self {
        let read = Kubeconfig::read_from(kubeconfig).unwrap();
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config).unwrap();
        let namespace: String = case.replace('_', "-").chars().take(60).collect();
        let namespace = namespace.trim_matches('-').to_owned();
        let api = Self { namespace, kubeconfig: kubeconfig.to_owned(), client };
        let made = json!({"metadata": {"name": api.namespace}});
        api.post("/api/v1/namespaces", &made).await.ok();
        api
    }

    /// The path of a resource of the core group in the case's namespace.
    pub(crate) fn core(&self, rest: &str) -> String {
        format!("/api/v1/namespaces/{}/{rest}", self.namespace)
    }

    /// The path of a resource of a group in the case's namespace.
    pub(crate) fn group(&self, version: &str, rest: &str) -> String {
        format!("/apis/{version}/namespaces/{}/{rest}", self.namespace)
    }

    async fn response(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> kube::Result<http::Response<Body>> {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body)).unwrap();
        timeout(PATIENCE, self.client.send(request)).await.expect("the server does not answer")
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Answer {
        self.try_send(method, path, headers, body).await.unwrap()
    }

    async fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> kube::Result<Answer> {
        let response = self.response(method, path, headers, body).await?;
        let code = response.status().as_u16();
        let warnings = response
            .headers()
            .get_all("warning")
            .iter()
            .map(|value| value.to_str().unwrap().to_owned())
            .collect();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = || String::from_utf8_lossy(&body).into_owned().into();
        Ok(Answer { code, body: serde_json::from_slice(&body).unwrap_or_else(|_| text()), warnings })
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], Vec::new()).await
    }

    pub(crate) async fn table(&self, path: &str) -> Value {
        self.send("GET", path, &[("accept", TABLE)], Vec::new()).await.ok()
    }

    pub(crate) async fn post(&self, path: &str, object: &Value) -> Answer {
        self.with_body("POST", path, "application/json", object).await
    }

    pub(crate) async fn put(&self, path: &str, object: &Value) -> Answer {
        self.with_body("PUT", path, "application/json", object).await
    }

    pub(crate) async fn patch(&self, path: &str, media_type: &str, patch: &Value) -> Answer {
        self.with_body("PATCH", path, media_type, patch).await
    }

    pub(crate) async fn delete(&self, path: &str, options: &Value) -> Answer {
        self.with_body("DELETE", path, "application/json", options).await
    }

    async fn with_body(&self, method: &str, path: &str, media_type: &str, body: &Value) -> Answer {
        let headers = [("content-type", media_type), ("user-agent", "battery/1")];
        self.send(method, path, &headers, body.to_string().into_bytes()).await
    }

    /// Applies as a manager.
    pub(crate) async fn apply(&self, path: &str, manager: &str, force: bool, config: &Value) -> Answer {
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}fieldManager={manager}&force={force}");
        self.patch(&path, APPLY, config).await
    }

    pub(crate) async fn watch(&self, path: &str) -> Lines {
        self.watch_as(path, "application/json").await
    }

    pub(crate) async fn watch_as(&self, path: &str, accept: &str) -> Lines {
        let response = self.response("GET", path, &[("accept", accept)], Vec::new()).await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        Lines { body: response.into_body(), buffer: Vec::new() }
    }

    /// Waits until a GET of the path is so.
    pub(crate) async fn until(&self, path: &str, so: impl Fn(&Answer) -> bool) -> Answer {
        let found = timeout(PATIENCE, async {
            loop {
                // The original cuts connections while it takes in a changed definition.
                match self.try_send("GET", path, &[], Vec::new()).await {
                    Ok(answer) if so(&answer) => return answer,
                    Ok(_) | Err(_) => {}
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        found.await.unwrap_or_else(|_| panic!("not so in time: {path}"))
    }
}

/// Names of the items of a list.
pub(crate) fn names(list: &Value) -> Vec<String> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

/// A ConfigMap.
pub(crate) fn config_map(name: &str, labels: &Value, data: &Value) -> Value {
    let mut object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
    if labels.as_object().is_some_and(|labels| !labels.is_empty()) {
        object["metadata"]["labels"] = labels.clone();
    }
    object
}

/// The version of an object or list.
pub(crate) fn version(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}
