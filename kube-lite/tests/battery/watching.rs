//! Watches.

use serde_json::json;

use crate::client::{Api, MERGE, TABLE, config_map, version};

pub(crate) async fn a_watch_tells_what_happens_after_a_version(api: &Api) {
    let path = api.core("configmaps");
    let first = api.post(&path, &config_map("a", &json!({}), &json!({}))).await.ok();
    let mut lines = api.watch(&format!("{path}?watch=1&resourceVersion={}", version(&first))).await;
    api.post(&path, &config_map("b", &json!({}), &json!({}))).await.ok();
    api.patch(&format!("{path}/a"), MERGE, &json!({"data": {"k": "v"}})).await.ok();
    let last = api.get(&format!("{path}/a")).await.ok();
    api.delete(&format!("{path}/a"), &json!({})).await.ok();
    assert_eq!(lines.brief().await, "ADDED b");
    let modified = lines.next().await.unwrap();
    assert_eq!((&modified["type"], &modified["object"]), (&json!("MODIFIED"), &last));
    let deleted = lines.next().await.unwrap();
    assert_eq!((&deleted["type"], &deleted["object"]["data"]), (&json!("DELETED"), &json!({"k": "v"})));
    let number = |object| version(object).parse::<u64>().unwrap();
    assert!(number(&deleted["object"]) > number(&last), "the version of the deletion");
    // The same again from the past.
    let mut again = api.watch(&format!("{path}?watch=true&resourceVersion={}", version(&first))).await;
    for wanted in ["ADDED b", "MODIFIED a", "DELETED a"] {
        assert_eq!(again.brief().await, wanted);
    }
}

pub(crate) async fn a_selector_turns_changes_into_additions_and_deletions(api: &Api) {
    let path = api.core("configmaps");
    let list = api.get(&path).await.ok();
    let mut lines =
        api.watch(&format!("{path}?watch=1&labelSelector=x%3D1&resourceVersion={}", version(&list))).await;
    let mut named = api
        .watch(&format!("{path}?watch=1&fieldSelector=metadata.name%3Db&resourceVersion={}", version(&list)))
        .await;
    api.post(&path, &config_map("a", &json!({}), &json!({}))).await.ok();
    api.patch(&format!("{path}/a"), MERGE, &json!({"metadata": {"labels": {"x": "1"}}})).await.ok();
    api.patch(&format!("{path}/a"), MERGE, &json!({"data": {"k": "v"}})).await.ok();
    api.patch(&format!("{path}/a"), MERGE, &json!({"metadata": {"labels": {"x": "2"}}})).await.ok();
    api.post(&path, &config_map("b", &json!({"x": "1"}), &json!({}))).await.ok();
    for wanted in ["ADDED a", "MODIFIED a", "DELETED a", "ADDED b"] {
        assert_eq!(lines.brief().await, wanted);
    }
    assert_eq!(named.brief().await, "ADDED b");
}

pub(crate) async fn a_watch_without_a_version_begins_with_what_is_there(api: &Api) {
    let path = api.core("secrets");
    api.post(&path, &json!({"metadata": {"name": "a"}})).await.ok();
    let mut lines = api.watch(&format!("{path}?watch=1")).await;
    assert_eq!(lines.brief().await, "ADDED a");
    api.post(&path, &json!({"metadata": {"name": "b"}})).await.ok();
    assert_eq!(lines.brief().await, "ADDED b");
}

pub(crate) async fn a_streamed_list_ends_with_a_bookmark(api: &Api) {
    let path = api.core("secrets");
    api.post(&path, &json!({"metadata": {"name": "a"}})).await.ok();
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut lines = api.watch(&format!("{path}?{query}")).await;
    assert_eq!(lines.brief().await, "ADDED a");
    let end = lines.next().await.unwrap();
    assert_eq!((&end["type"], &end["object"]["kind"]), (&json!("BOOKMARK"), &json!("Secret")));
    assert_eq!(end["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    let from = version(&end["object"]);
    api.post(&path, &json!({"metadata": {"name": "b"}})).await.ok();
    let mut next = lines.brief().await;
    while next.starts_with("BOOKMARK") {
        // The time for one of those may come at any moment.
        next = lines.brief().await;
    }
    assert_eq!(next, "ADDED b");
    let mut resumed = api.watch(&format!("{path}?watch=1&resourceVersion={from}")).await;
    assert_eq!(resumed.brief().await, "ADDED b");
}

pub(crate) async fn a_watch_ends_after_its_time(api: &Api) {
    let list = api.get(&api.core("secrets")).await.ok();
    let path = api.core(&format!("secrets?watch=1&timeoutSeconds=1&resourceVersion={}", version(&list)));
    assert_eq!(api.watch(&path).await.next().await, None);
}

pub(crate) async fn tables_are_watched_row_by_row(api: &Api) {
    let path = api.core("configmaps");
    let list = api.get(&path).await.ok();
    let mut lines = api.watch_as(&format!("{path}?watch=1&resourceVersion={}", version(&list)), TABLE).await;
    api.post(&path, &config_map("a", &json!({}), &json!({"k": "v"}))).await.ok();
    let event = lines.next().await.unwrap();
    let table = &event["object"];
    assert_eq!(
        (&event["type"], &table["kind"], &table["columnDefinitions"][0]["name"]),
        (&json!("ADDED"), &json!("Table"), &json!("Name"))
    );
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..2], [json!("a"), json!(1)]);
    assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "a");
}
