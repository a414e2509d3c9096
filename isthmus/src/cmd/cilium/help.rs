//! What `--help` prints for a program of Cilium, and the page of the documentation from the same tables.

use super::flags::{Flag, Kind, State, variable};

/// The flags with their defaults and what they come to.
pub(super) fn text(program: &str, table: &[Flag]) -> String {
    let mut text = format!(
        "Usage: clustermesh-apiserver {program} [FLAGS]\n\nThe flags are Cilium's; each can also be given as a \
         variable, such as {}. Flags of `isthmus` are taken too.\n",
        variable(table[0].name)
    );
    for flag in table.iter().filter(|flag| !flag.hidden) {
        text += &format!("\n  --{:<38} {}", format!("{} {}", flag.name, word(flag.kind)), about(flag));
    }
    text
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "",
        Kind::Count(_) => "NUMBER",
        Kind::Float => "RATE",
        Kind::Duration => "DURATION",
        Kind::Text => "TEXT",
        Kind::List => "TEXT,…",
        Kind::Map => "KEY=VALUE,…",
    }
}

fn about(flag: &Flag) -> String {
    let state = match flag.state {
        State::Same => String::new(),
        State::Means(what) => what.to_owned(),
        State::Accepted(why) => format!("no effect: {why}"),
    };
    match (flag.default, state.as_str()) {
        ("" | "[]", _) => state,
        (default, "") => format!("[default: {default}]"),
        (default, _) => format!("{state} [default: {default}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::flags::{CLUSTERMESH, ETCDINIT, KVSTOREMESH};
    use super::*;
    use std::path::Path;

    /// The page `docs/cilium-flags.md`.
    fn page() -> String {
        let mut page = "# The flags of Cilium's image\n\nStarted as `clustermesh-apiserver`, the program takes the flags of Cilium's \
            programs of the same names, with Cilium's defaults; each can also be given as an environment variable, such as \
            `CILIUM_CLUSTER_NAME`, and a flag wins over its variable. A flag that Cilium does not have is an error that names the \
            nearest one, unless it is a flag of `isthmus clustermesh-apiserver` or `isthmus kvstoremesh`. A flag without effect is \
            named once in the log.\n\nThis page is made from the program's tables by \
            `ISTHMUS_WRITE_PAGES=1 cargo test -p isthmus flags_page`.\n"
            .to_owned();
        for (name, table) in
            [("clustermesh", CLUSTERMESH), ("kvstoremesh", KVSTOREMESH), ("etcdinit", ETCDINIT)]
        {
            page += &format!("\n## {name}\n\n| flag | default | here |\n| --- | --- | --- |\n");
            for flag in table {
                let default = match flag.default {
                    "" | "[]" => "-".to_owned(),
                    default => format!("`{default}`"),
                };
                let here = match flag.state {
                    State::Same => "the same".to_owned(),
                    State::Means(what) => what.to_owned(),
                    State::Accepted(why) => format!("no effect: {why}"),
                };
                let hidden = if flag.hidden { " (hidden)" } else { "" };
                page += &format!("| `--{}`{hidden} | {default} | {here} |\n", flag.name);
            }
        }
        page
    }

    #[test]
    fn the_flags_page_says_what_the_tables_say() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cilium-flags.md");
        if std::env::var_os("ISTHMUS_WRITE_PAGES").is_some() {
            std::fs::write(&file, page()).unwrap();
        }
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(written == page(), "docs/cilium-flags.md is not what the tables make of it");
    }
}
