//! Other names that the program answers to, so that it can stand where a chart calls Cilium's binaries.

use std::ffi::OsString;
use std::path::Path;

/// A name and the command that it stands for.
struct Applet {
    name: &'static str,
    /// The command that all of its arguments are for.
    command: &'static [&'static str],
}

/// Names of Cilium's chart (docs: `clustermesh-apiserver` of the Deployment template).
const APPLETS: &[Applet] = &[
    Applet { name: "clustermesh-apiserver", command: &["cilium"] },
    Applet { name: "etcd", command: &["store", "etcd"] },
];

/// Turns a call by another name into the same call of `isthmus`; all else passes unchanged.
pub(crate) fn rewrite(mut args: Vec<OsString>) -> Vec<OsString> {
    let called = args.first().and_then(|path| Path::new(path).file_name()).map(OsString::from);
    let applet = APPLETS.iter().find(|applet| called.as_deref().is_some_and(|name| name == applet.name));
    if let Some(applet) = applet {
        args.splice(1..1, applet.command.iter().map(OsString::from));
    }
    args
}

/// What the program is called in help, if kubectl has called it: its plugins are programs whose names begin with `kubectl-`.
pub(crate) fn plugin_name(args: &[OsString]) -> Option<String> {
    let called = Path::new(args.first()?).file_name()?.to_str()?;
    let name = called.strip_prefix("kubectl-")?;
    // A dash in a plugin's command is an underscore in its file.
    Some(format!("kubectl {}", name.replace('_', "-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_has_the_name_that_its_user_types() {
        for (called, expected) in
            [("/bin/kubectl-isthmus", Some("kubectl isthmus")), ("isthmus", None), ("", None)]
        {
            assert_eq!(plugin_name(&[called.into()]).as_deref(), expected, "{called}");
        }
        assert_eq!(plugin_name(&[]), None);
    }

    #[test]
    fn calls_by_ciliums_names_become_our_subcommands() {
        let cases = [
            ("own name", "isthmus kvstoremesh --x", "isthmus kvstoremesh --x"),
            ("own name, word of the other", "isthmus clustermesh", "isthmus clustermesh"),
            (
                "exporter",
                "/usr/bin/clustermesh-apiserver clustermesh --x",
                "/usr/bin/clustermesh-apiserver cilium clustermesh --x",
            ),
            ("mirror", "clustermesh-apiserver kvstoremesh", "clustermesh-apiserver cilium kvstoremesh"),
            ("store", "/usr/bin/etcd --name=x", "/usr/bin/etcd store etcd --name=x"),
            ("flag only", "clustermesh-apiserver --help", "clustermesh-apiserver cilium --help"),
            ("nothing at all", "", ""),
        ];
        for (name, given, expected) in cases {
            let split = |line: &str| line.split_whitespace().map(OsString::from).collect::<Vec<_>>();
            assert_eq!(rewrite(split(given)), split(expected), "{name}");
        }
    }
}
