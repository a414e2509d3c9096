//! Other names that the program answers to, so that it can stand where a chart calls Cilium's binaries.

use std::ffi::OsString;
use std::path::Path;

/// A name and what its subcommands are called here.
struct Applet {
    name: &'static str,
    /// The command that all of its arguments are for.
    command: &'static [&'static str],
    subcommands: &'static [(&'static str, &'static str)],
}

/// Names of Cilium's chart (docs: `clustermesh-apiserver` of the Deployment template).
const APPLETS: &[Applet] = &[
    Applet {
        name: "clustermesh-apiserver",
        command: &[],
        subcommands: &[
            ("clustermesh", "clustermesh-apiserver"),
            ("kvstoremesh", "kvstoremesh"),
            ("etcdinit", "etcdinit"),
        ],
    },
    Applet { name: "etcd", command: &["store", "etcd"], subcommands: &[] },
];

/// Turns a call by another name into the same call of `isthmus`; all else passes unchanged.
pub(crate) fn rewrite(mut args: Vec<OsString>) -> Vec<OsString> {
    let called = args.first().and_then(|path| Path::new(path).file_name()).map(OsString::from);
    let Some(applet) =
        APPLETS.iter().find(|applet| called.as_deref().is_some_and(|name| name == applet.name))
    else {
        return args;
    };
    if let Some(given) = args.get_mut(1)
        && let Some((_, ours)) = applet.subcommands.iter().find(|(theirs, _)| given.as_os_str() == *theirs)
    {
        *given = OsString::from(ours);
    }
    args.splice(1..1, applet.command.iter().map(OsString::from));
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_by_ciliums_names_become_our_subcommands() {
        let cases = [
            ("own name", "isthmus kvstoremesh --x", "isthmus kvstoremesh --x"),
            ("own name, word of the other", "isthmus clustermesh", "isthmus clustermesh"),
            (
                "exporter",
                "/usr/bin/clustermesh-apiserver clustermesh --x",
                "/usr/bin/clustermesh-apiserver clustermesh-apiserver --x",
            ),
            ("mirror", "clustermesh-apiserver kvstoremesh", "clustermesh-apiserver kvstoremesh"),
            (
                "users",
                "clustermesh-apiserver etcdinit --cluster-name=x",
                "clustermesh-apiserver etcdinit --cluster-name=x",
            ),
            ("store", "/usr/bin/etcd --name=x", "/usr/bin/etcd store etcd --name=x"),
            ("flag only", "clustermesh-apiserver --help", "clustermesh-apiserver --help"),
            ("nothing at all", "", ""),
        ];
        for (name, given, expected) in cases {
            let split = |line: &str| line.split_whitespace().map(OsString::from).collect::<Vec<_>>();
            assert_eq!(rewrite(split(given)), split(expected), "{name}");
        }
    }
}
