//! The root-only socket on which a person talks to the running agent.
//!
//! One line of JSON each way: `{"release":"reason"}` -> `{"lines":["..."],"code":0}`.

use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Name of the socket in the state directory.
pub const SOCKET: &str = "agent.sock";
/// The longest line taken.
const LINE_MAX: u64 = 64 * 1024;
/// Whoever connects and says nothing is hung up on.
const LINE_WITHIN: Duration = Duration::from_secs(10);
/// Exit codes, as medevacctl has them.
const REFUSED: u8 = 1;
const UNANSWERED: u8 = 3;
/// A release starts guests one after the other; half an hour is many of them.
const ANSWER_WITHIN: Duration = Duration::from_secs(1800);

/// A person's word.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// End the hold and start what ran before; with the reason.
    Release(String),
    /// Give every autostart flag back: the package is being removed.
    GiveBack(String),
    /// Ask the aggregator to take this host out of care, or back into it.
    Maintenance(Maintenance),
}

/// As `medevacctl maintenance` has it, of this host.
#[derive(Debug, Serialize, Deserialize)]
pub struct Maintenance {
    pub on: bool,
    pub until_back: bool,
    pub for_s: Option<u64>,
    pub reason: String,
}

/// What a word came to: lines for a person, and the exit code of whoever said it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Told {
    pub lines: Vec<String>,
    pub code: u8,
}

impl Told {
    pub fn done(lines: Vec<String>) -> Told {
        Told { lines, code: 0 }
    }

    /// A rule speaks against it.
    pub fn refused(why: impl Into<String>) -> Told {
        Told { lines: vec![why.into()], code: REFUSED }
    }

    /// Nobody is there who could say yes or no.
    pub fn unanswered(why: impl Into<String>) -> Told {
        Told { lines: vec![why.into()], code: UNANSWERED }
    }
}

/// A word and where its answer goes.
#[derive(Debug)]
pub struct Ask {
    pub word: Word,
    pub answer: oneshot::Sender<Told>,
}

/// Listens in the state directory until the receiver of `asks` has gone.
///
/// # Errors
/// Where the socket cannot be made.
pub fn listen(state_dir: &Path, asks: mpsc::Sender<Ask>) -> io::Result<()> {
    let path = state_dir.join(SOCKET);
    // Left by a process that was killed; a living one holds the lock of the state directory.
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    tokio::spawn(async move {
        while !asks.is_closed() {
            // One at a time: there is one person, and the words are rare.
            if let Ok((stream, _)) = listener.accept().await
                && let Err(e) = serve(stream, &asks).await
            {
                tracing::warn!("the control socket: {e}");
            }
        }
    });
    Ok(())
}

async fn serve(stream: UnixStream, asks: &mpsc::Sender<Ask>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    timeout(LINE_WITHIN, BufReader::new(read.take(LINE_MAX)).read_line(&mut line)).await??;
    let told = match serde_json::from_str(&line) {
        Err(e) => Told::refused(format!("not understood: {e}")),
        Ok(word) => {
            let (answer, answered) = oneshot::channel();
            let sent = asks.send(Ask { word, answer }).await;
            sent.map_err(|_| io::Error::other("the agent is stopping"))?;
            timeout(ANSWER_WITHIN, answered).await?.map_err(io::Error::other)?
        }
    };
    let mut bytes = serde_json::to_vec(&told).map_err(io::Error::other)?;
    bytes.push(b'\n');
    write.write_all(&bytes).await
}

/// Says a word to the running agent and returns its answer.
///
/// # Errors
/// Says what to do where no agent runs.
pub async fn say(state_dir: &Path, word: &Word) -> io::Result<Told> {
    let path = state_dir.join(SOCKET);
    let stream = UnixStream::connect(&path).await.map_err(|e| {
        io::Error::other(format!(
            "no agent answers at {} ({e}); start it first: systemctl start medevac-agent",
            path.display()
        ))
    })?;
    let (read, mut write) = stream.into_split();
    let mut bytes = serde_json::to_vec(word).map_err(io::Error::other)?;
    bytes.push(b'\n');
    write.write_all(&bytes).await?;
    let mut line = String::new();
    timeout(ANSWER_WITHIN, BufReader::new(read).read_line(&mut line)).await??;
    serde_json::from_str(&line).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_word_is_heard_and_answered() {
        let dir = tempfile::tempdir().unwrap();
        let (tx, mut rx) = mpsc::channel(1);
        listen(dir.path(), tx).unwrap();
        let mode = std::fs::metadata(dir.path().join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let agent = tokio::spawn(async move {
            let ask: Ask = rx.recv().await.unwrap();
            assert!(matches!(ask.word, Word::Release(r) if r == "why"));
            ask.answer.send(Told::done(vec!["done".into()])).unwrap();
        });
        let told = say(dir.path(), &Word::Release("why".into())).await.unwrap();
        assert_eq!((told.lines, told.code), (vec!["done".to_owned()], 0));
        agent.await.unwrap();
    }

    #[tokio::test]
    async fn without_an_agent_it_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let e = say(dir.path(), &Word::Release("why".into())).await.unwrap_err().to_string();
        assert!(e.contains("systemctl start medevac-agent"), "{e}");
    }
}
