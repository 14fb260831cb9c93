//! The threat model names each use of `unsafe` in the source.

use std::collections::BTreeSet;
use std::fs::{read_dir, read_to_string};
use std::path::{Path, PathBuf};

const NUMBERS: [&str; 11] = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];

/// Adds the files of a directory to `files`, and those of the directories in it.
fn add_files(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() { add_files(&path, files) } else { files.push(path) }
    }
}

/// Returns true if the line has a block or an item that is `unsafe`. The lint is called `unsafe_code`.
fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe")
}

#[test]
fn every_unsafe_block_is_named_in_the_threat_model() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut files, mut count, mut found) = (Vec::new(), 0, BTreeSet::new());
    add_files(&root.join("src"), &mut files);
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs")) {
        let lines = read_to_string(file).expect("a source").lines().filter(|line| is_unsafe(line)).count();
        if lines > 0 {
            count += lines;
            found.insert(file.strip_prefix(root).expect("below it").display().to_string());
        }
    }
    let page = read_to_string(root.join("docs/threat-model.md")).expect("the page");
    let (number, rest) = page.split_once(" blocks of `unsafe`. ").expect("the number of blocks");
    let number = number.rsplit(' ').next().expect("a word");
    assert_eq!(NUMBERS.get(count), Some(&number), "{found:?}");
    let paragraph = rest.split("\n\n").next().expect("a paragraph");
    let named = paragraph.split('`').filter(|word| word.starts_with("src/")).map(str::to_owned).collect();
    assert_eq!(found, named);
}
