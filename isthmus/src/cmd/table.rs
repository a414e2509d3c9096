//! Columns for people.

/// Lines of cells under a header, each column as wide as its widest cell. Empty cells show as `-`.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let rows: Vec<[String; N]> = rows.into_iter().collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = line(&header, &widths);
    for row in &rows {
        let cells: [&str; N] = std::array::from_fn(|column| match row[column].as_str() {
            "" => "-",
            cell => cell,
        });
        text += &line(&cells, &widths);
    }
    text
}

fn line<const N: usize>(cells: &[&str; N], widths: &[usize; N]) -> String {
    let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
    let line = padded.collect::<Vec<_>>().join("  ");
    format!("{}\n", line.trim_end())
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
