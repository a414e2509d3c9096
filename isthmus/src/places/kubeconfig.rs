//! Which kubeconfig, and whether it has a context.

use crate::exit::Usage;
use kube::config::Kubeconfig;
use std::path::{Path, PathBuf};

/// The file that was given, else the first of `$KUBECONFIG`, else that of the home directory.
///
/// # Errors
/// [`Usage`] if there is none, with where it was looked for.
pub(crate) fn find(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let (file, from) = if let Some(file) = given {
        (file.to_owned(), "--kubeconfig")
    } else if let Some(list) = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
        (std::env::split_paths(&list).next().unwrap_or_default(), "KUBECONFIG")
    } else {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        (home.join(".kube/config"), "no --kubeconfig and no KUBECONFIG; the default")
    };
    if file.is_file() {
        return Ok(file);
    }
    Err(Usage::error(format!("{from}: expected a kubeconfig, found no file {}", file.display())))
}

/// Checks that a kubeconfig has a context.
///
/// # Errors
/// [`Usage`] with the contexts that there are, or with what is wrong with the file.
pub(crate) fn check(file: &Path, context: &str) -> anyhow::Result<()> {
    let wrong = |what: String| Usage::error(format!("kubeconfig {}: {what}", file.display()));
    let config = Kubeconfig::read_from(file).map_err(|error| wrong(kube_watch::wrong_with(&error)))?;
    let names: Vec<&str> = config.contexts.iter().map(|context| context.name.as_str()).collect();
    if names.contains(&context) {
        return Ok(());
    }
    Err(wrong(format!("expected a context of {}, found {context:?}", names.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_and_an_unknown_context_are_told_with_what_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        let error = find(Some(&file)).unwrap_err().to_string();
        assert!(error.starts_with("--kubeconfig: expected a kubeconfig, found no file "), "{error}");
        std::fs::write(
            &file,
            "apiVersion: v1\nkind: Config\ncontexts:\n- {name: a, context: {cluster: a, user: a}}\n- {name: b, context: {cluster: b, user: b}}\n",
        )
        .unwrap();
        assert_eq!(find(Some(&file)).unwrap(), file);
        check(&file, "b").unwrap();
        let error = check(&file, "c").unwrap_err().to_string();
        assert!(error.ends_with("expected a context of a, b, found \"c\""), "{error}");
        std::fs::write(&file, "contexts: 3\n").unwrap();
        assert!(check(&file, "c").unwrap_err().to_string().contains("kubeconfig "));
    }
}
