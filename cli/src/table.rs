//! Columns for people.

/// Blanks between columns.
const GAP: usize = 3;

/// Rows of text under a head. Pure: it knows no terminal and never cuts.
#[derive(Debug, Clone, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    indent: usize,
}

impl Table {
    /// A table with these column names.
    pub fn new<const N: usize>(head: [&str; N]) -> Self {
        Self {
            rows: vec![head.iter().map(ToString::to_string).collect()],
            indent: 0,
        }
    }

    /// Rows without a head, e.g. names and values.
    pub fn headless() -> Self {
        Self::default()
    }

    /// Puts blanks before each row.
    #[must_use]
    pub fn indented(mut self, blanks: usize) -> Self {
        self.indent = blanks;
        self
    }

    /// Adds a row. Control characters (also line ends) become blanks, an empty cell becomes "-".
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows
            .push(cells.into_iter().map(|cell| clean(&cell)).collect());
    }

    /// The text: each column as wide as its widest cell, no blanks at line ends.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|i| {
                self.rows
                    .iter()
                    .filter_map(|r| r.get(i))
                    .map(|c| c.chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = " ".repeat(self.indent);
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.push_str(&" ".repeat(width + GAP - cell.chars().count()));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// One line without control characters: objects of a cluster are not to steer a terminal.
pub fn clean(text: &str) -> String {
    let words: Vec<&str> = text
        .split(|c: char| c.is_control() || c == ' ')
        .filter(|w| !w.is_empty())
        .collect();
    if words.is_empty() {
        "-".into()
    } else {
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_cells_cannot_steer_the_terminal() {
        let mut table = Table::new(["NAME", "STATE"]).indented(2);
        table.row(["worker-1".into(), "ok".into()]);
        table.row(["b\u{1b}[2J".into(), String::new()]);
        assert_eq!(
            table.render(),
            "  NAME       STATE\n  worker-1   ok\n  b [2J      -\n"
        );
    }
}
