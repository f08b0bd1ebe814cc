//! The fake as a program of its own, for what is measured from outside: a Keystone and a
//! Nova on loopback with as many hosts and servers as wanted, until it is killed.
//!
//! ```text
//!   fake_cloud CLOUDS_YAML HOSTS SERVERS      writes CLOUDS_YAML, whose cloud is called "fake"
//! ```

use medevac_openstack::fake::{Fake, FakeServer, Options};
use std::error::Error;

/// Servers differ in these as they do in a cloud that is used.
const FLAVORS: usize = 12;
const PROJECTS: usize = 200;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [file, hosts, servers] = &words[..] else { return Err("fake_cloud CLOUDS_YAML HOSTS SERVERS".into()) };
    let (hosts, servers): (usize, usize) = (hosts.parse()?, servers.parse()?);
    let fake = Fake::start(Options::default()).await?;
    for number in 1..=hosts {
        fake.add_host(&format!("hv{number}"));
    }
    for number in 0..servers {
        fake.add_server(FakeServer {
            flavor: format!("m1.kind{}", number % FLAVORS),
            project: format!("{:032x}", number % PROJECTS),
            metadata: [("owner".to_owned(), format!("team {number}")), ("HA_Enabled".to_owned(), "True".to_owned())]
                .into(),
            ..FakeServer::on(&format!("hv{}", number % hosts.max(1) + 1))
        });
    }
    std::fs::write(file, fake.clouds_yaml())?;
    std::future::pending().await
}
