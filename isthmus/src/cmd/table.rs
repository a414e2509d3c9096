//! Columns for people.

use comfy_table::{Cell, ContentArrangement, Table, presets};

/// Lines of cells under a header, each column as wide as its widest cell. Empty cells show as `-`.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.map(Cell::new));
    table.add_rows(
        rows.into_iter().map(|row| row.map(|cell| Cell::new(if cell.is_empty() { "-" } else { &cell }))),
    );
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [
            ["a".to_owned(), String::new(), "z".to_owned()],
            ["long".to_owned(), "b".to_owned(), String::new()],
        ];
        assert_eq!(table(["X", "YY", "Z"], rows), "X     YY  Z\na     -   z\nlong  b   -\n");
        assert_eq!(table(["X"], []), "X\n");
    }
}
