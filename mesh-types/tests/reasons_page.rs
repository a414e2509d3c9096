//! `docs/reasons.md` has each reason, in the words of the code.

use std::fmt::Write as _;
use std::path::Path;

use mesh_types::Reason;

#[test]
fn the_page_of_reasons_is_up_to_date() {
    let mut page = "# Reasons

Wherever Isthmus skips, filters, withholds or refuses something, it names a reason by one of these codes: in logs (field
`reason`), in metrics (label `reason`), in `status` and in the tables of the agent. A code never changes its meaning.

This page is made from `mesh-types/src/reason.rs`; `make reasons` writes it anew.

| code | meaning |
| --- | --- |
"
    .to_owned();
    for reason in Reason::ALL {
        let explanation = reason.explanation().trim().replace('|', "\\|");
        writeln!(page, "| <a id=\"{0}\"></a>`{0}` | {explanation} |", reason.code()).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reasons.md");
    if std::env::var_os("ISTHMUS_WRITE_PAGES").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/reasons.md differs from mesh-types/src/reason.rs: run `make reasons`");
}
