//! What the contract is checked on.

use medevac_openstack::fake::{Fake, FakeServer, Options};
use medevac_openstack::{Answer, Credentials, Nova};
use std::time::Duration;
use tokio::time::Instant;

/// Real Nova takes seconds for some of this, a loaded one tens of them.
const CALL: Duration = Duration::from_secs(30);
const WAIT: Duration = Duration::from_secs(120);

/// A cloud, and what of it may be used.
pub struct Target {
    pub nova: Nova,
    pub credentials: Credentials,
    pub lab: Option<Lab>,
    fake: Option<Fake>,
}

/// Hosts and servers that may be broken.
pub struct Lab {
    /// The host that dies. It has all of `servers`.
    pub host: String,
    /// A host that is well, with room for them.
    pub target: String,
    /// At least three, active.
    pub servers: Vec<String>,
    /// Shell commands: one crashes `host`, the other boots it, or where it is up starts its
    /// nova-compute once more.
    crash: String,
    back: String,
}

impl Target {
    pub async fn fake() -> Self {
        let fake = Fake::start(Options { page: 3, ..Options::default() }).await.unwrap();
        for host in ["hv1", "hv2", "hv3"] {
            fake.add_host(host);
        }
        let servers: Vec<String> = (0..4).map(|_| fake.add_server(FakeServer::on("hv1"))).collect();
        fake.add_server(FakeServer::on("hv2"));
        fake.add_aggregate("spare", None, &["hv3"]);
        fake.add_server_group("pair", "anti-affinity", &[&servers[0]]);
        let lab = Lab { host: "hv1".into(), target: "hv3".into(), servers, crash: String::new(), back: String::new() };
        let credentials = fake.credentials();
        Self { nova: Nova::new(credentials.clone()).unwrap(), credentials, lab: Some(lab), fake: Some(fake) }
    }

    /// The cloud that the environment names, if it is asked for.
    pub fn real() -> Option<Self> {
        let var = |name: &str| std::env::var(format!("MEDEVAC_CONTRACT{name}")).ok().filter(|text| !text.is_empty());
        var("")?;
        let credentials = Credentials::from_env(false).expect("OS_CLOUD or OS_* name the cloud");
        let lab = var("_HOST").map(|host| Lab {
            host,
            target: var("_TARGET").expect("MEDEVAC_CONTRACT_TARGET names a host that is well"),
            servers: var("_SERVERS")
                .expect("MEDEVAC_CONTRACT_SERVERS names three servers on it, by id, with commas")
                .split(',')
                .map(str::to_owned)
                .collect(),
            crash: var("_CRASH").unwrap_or_default(),
            back: var("_RETURN").unwrap_or_default(),
        });
        let nova = Nova::new(credentials.clone()).expect("the files for TLS are there");
        Some(Self { nova, credentials, lab, fake: None })
    }

    pub fn soon(&self) -> Instant {
        Instant::now() + CALL
    }

    /// `false`: not to be done here.
    pub async fn crash(&self, lab: &Lab) -> bool {
        match &self.fake {
            Some(fake) => {
                fake.crash(&lab.host);
                true
            }
            None => shell(&lab.crash).await,
        }
    }

    pub async fn bring_back(&self, lab: &Lab) -> bool {
        match &self.fake {
            Some(fake) => {
                fake.start_compute(&lab.host);
                true
            }
            None => shell(&lab.back).await,
        }
    }

    /// Asks until the answer satisfies, and gives that one.
    pub async fn until<T: std::fmt::Debug>(
        &self,
        what: &str,
        mut ask: impl AsyncFnMut() -> Answer<T>,
        enough: impl Fn(&T) -> bool,
    ) -> T {
        let ends = Instant::now() + WAIT;
        loop {
            let answer = ask().await;
            match answer {
                Answer::Done(value) if enough(&value) => return value,
                other if Instant::now() >= ends => panic!("{what}: still {other:?}"),
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

async fn shell(command: &str) -> bool {
    if command.is_empty() {
        return false;
    }
    let status = tokio::process::Command::new("sh").args(["-c", command]).status().await.unwrap();
    assert!(status.success(), "{command}: {status}");
    true
}

pub fn done<T: std::fmt::Debug>(answer: Answer<T>) -> T {
    match answer {
        Answer::Done(value) => value,
        other => panic!("not done: {other:?}"),
    }
}
