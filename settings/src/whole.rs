//! A file that somebody may just be writing.

use std::path::Path;
use std::time::Duration;

/// A file that has not changed for this long is not being written.
const STILL_FOR: Duration = Duration::from_millis(200);
/// Looks at a file that changes all the time, before it is given up.
const LOOKS_MAX: usize = 25;

/// Reads a file that nobody is just writing: its end may be missing without a fault in the rest. Blocks.
///
/// # Errors
/// Why it is not taken for a whole one.
pub fn read_whole(path: &Path) -> Result<String, String> {
    let read = || std::fs::read_to_string(path).map_err(|error| format!("it cannot be read: {error}"));
    let mut text = read()?;
    for _ in 0..LOOKS_MAX {
        std::thread::sleep(STILL_FOR);
        let again = read()?;
        if again == text {
            return match text.ends_with('\n') {
                true => Ok(text),
                false => Err("its last line has no end: is somebody still writing it?".to_owned()),
            };
        }
        text = again;
    }
    Err("it changes all the time: is somebody still writing it?".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_still_being_written_is_waited_for_and_half_a_line_is_refused() {
        let path = std::env::temp_dir().join(format!("medevac-whole-{}", std::process::id()));
        std::fs::write(&path, "[timing]\n").unwrap();
        let late = path.clone();
        let writer = std::thread::spawn(move || {
            std::thread::sleep(STILL_FOR / 2);
            std::fs::write(&late, "[timing]\nsettle = \"1m\"\n").unwrap();
        });
        assert_eq!(read_whole(&path).unwrap(), "[timing]\nsettle = \"1m\"\n");
        writer.join().unwrap();
        for text in ["[timing]\nsettle = \"1m\"\n[[fen", ""] {
            std::fs::write(&path, text).unwrap();
            assert!(read_whole(&path).unwrap_err().contains("has no end"), "{text}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(read_whole(&path).unwrap_err().contains("cannot be read"));
    }
}
