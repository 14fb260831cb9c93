//! The file with the password for Redis.

use crate::advice;
use crate::fs::{Accept, is_utf_16, read_bounded, without_mark};
use std::path::Path;

/// The most bytes of the password file.
const MAX_PASSWORD_FILE: u64 = 4096;

/// Reads a password from a file, without the line break at its end.
pub(super) fn password(path: &Path) -> Result<Vec<u8>, String> {
    let file = read_bounded(path, MAX_PASSWORD_FILE, Accept::File).map_err(|what| advice::to_read(path, what))?.bytes;
    if is_utf_16(&file) {
        return Err("it is in UTF-16; expected UTF-8".into());
    }
    let text = without_mark(&file);
    let line = text.strip_suffix(b"\n").map_or(text, |text| text.strip_suffix(b"\r").unwrap_or(text));
    if line.is_empty() {
        return Err("it is empty; expected the password".into());
    }
    if line.iter().any(|byte| b"\r\n\0".contains(byte)) {
        return Err("expected one line with the password".into());
    }
    Ok(line.into())
}

#[cfg(test)]
mod tests {
    use super::password;
    use std::fs::write;

    #[test]
    fn a_password_is_one_line_of_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let read = |text: &[u8]| {
            write(&path, text).unwrap();
            password(&path)
        };
        for text in [&b"a b\xff"[..], b"a b\xff\n", b"a b\xff\r\n", b"\xef\xbb\xbfa b\xff\n"] {
            assert_eq!(read(text).unwrap(), b"a b\xff");
        }
        for (text, said) in [
            (&b""[..], "it is empty"),
            (b"\n", "it is empty"),
            (b"a\n\n", "one line"),
            (b"a\nb", "one line"),
            (b"aa\0b", "one line"),
            (b"\xff\xfea\0", "UTF-16"),
            (&[b'x'; 4097], "at most 4096 bytes"),
        ] {
            let wrong = read(text).unwrap_err();
            assert!(wrong.contains(said), "{}: {wrong}", text.escape_ascii());
        }
        assert!(password(&directory.path().join("none")).unwrap_err().starts_with("cannot open it"));
    }
}
