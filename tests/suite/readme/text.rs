//! The README taken apart: blocks, tables, links, words.

pub(super) const README: &str = include_str!("../../../README.md");

/// A fenced block: what stands behind its opening fence, and its lines.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) info: String,
    pub(super) text: String,
}

pub(super) fn blocks() -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for line in README.lines() {
        match line.trim_start().strip_prefix("```") {
            Some(info) if !open => {
                blocks.push(Block { info: info.to_owned(), text: String::new() });
                open = true;
            }
            Some(_) => open = false,
            None if open => {
                let block = blocks.last_mut().unwrap();
                block.text += line;
                block.text.push('\n');
            }
            None => {}
        }
    }
    assert!(!open, "a block is not closed");
    blocks
}

/// The cells of the first table below a heading.
pub(crate) fn rows(heading: &str) -> Vec<Vec<String>> {
    let below = README.split_once(&format!("\n{heading}\n")).unwrap().1;
    let lines = below.lines().skip_while(|line| !line.starts_with('|')).skip(2);
    let lines = lines.take_while(|line| line.starts_with('|'));
    lines
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

/// What stands between backquotes, outside blocks.
pub(super) fn code_spans(text: &str) -> Vec<String> {
    let mut spans = Vec::new();
    let mut in_block = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            prose += line;
            prose.push('\n');
        }
    }
    for (index, part) in prose.split('`').enumerate() {
        if index % 2 == 1 {
            spans.push(part.replace('\n', " "));
        }
    }
    spans
}

/// The anchors of the headings, as GitHub makes them.
pub(super) fn headings() -> Vec<String> {
    let lines = README.lines().filter_map(|line| line.strip_prefix('#'));
    let titles = lines.map(|line| line.trim_start_matches('#').trim().to_lowercase());
    let kept = |character: &char| character.is_alphanumeric() || " -_".contains(*character);
    titles.map(|title| title.chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

/// Where the links lead.
pub(super) fn links() -> Vec<String> {
    let ends = README.split("](").skip(1);
    ends.filter_map(|rest| rest.split_once(')')).map(|(link, _)| link.to_owned()).collect()
}

/// Everything that is not cut by blanks, quotes or brackets.
pub(super) fn words() -> Vec<&'static str> {
    let cut = |character: char| character.is_whitespace() || "`'\"()[],:;".contains(character);
    README.split(cut).map(|word| word.trim_end_matches('.')).collect()
}

/// Rust source with its continued string literals on one line.
pub(super) fn joined(source: &str) -> String {
    let mut parts = source.split("\\\n");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.trim_start())
}
