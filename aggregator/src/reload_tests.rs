#![allow(clippy::unwrap_used)]

use super::*;

#[tokio::test]
async fn a_file_that_is_still_being_written_is_waited_for_and_half_a_line_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("aggregator.toml");
    std::fs::write(&path, "[timing]\n").unwrap();
    let writer = tokio::spawn({
        let path = path.clone();
        async move {
            tokio::time::sleep(STILL_FOR / 2).await;
            std::fs::write(&path, "[timing]\nsettle = \"1m\"\n").unwrap();
        }
    });
    assert_eq!(whole(&path).await.unwrap(), "[timing]\nsettle = \"1m\"\n");
    writer.await.unwrap();
    for text in ["[timing]\nsettle = \"1m\"\n[[fen", ""] {
        std::fs::write(&path, text).unwrap();
        assert!(whole(&path).await.unwrap_err().contains("has no end"), "{text}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(whole(&path).await.unwrap_err().contains("cannot be read"));
}
