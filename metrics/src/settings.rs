//! `[metrics]` of both configurations: where the port is, and who may ask.

use medevac_settings::Reader;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// Files for TLS beyond loopback: those of the daemon itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Where and how the port is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// `None`: nowhere.
    pub address: Option<SocketAddr>,
    /// Whoever asks must show a certificate of the site's authority.
    pub client_certificate: bool,
}

impl Listen {
    /// Reads `metrics.listen` and `metrics.client_certificate`. `tls`: whether the daemon has certificates.
    pub fn read(r: &mut Reader, port: u16, tls: bool) -> Self {
        let usual = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let text = r.string("metrics.listen", Some(&usual.to_string()));
        let address = if text.is_empty() { None } else { Some(text.parse().unwrap_or(usual)) };
        if !text.is_empty() && text.parse::<SocketAddr>().is_err() {
            r.problem("metrics.listen", &text, &format!("must be ADDRESS:PORT, such as {usual}, or empty: nowhere"));
        }
        let beyond = address.is_some_and(|address| !address.ip().is_loopback());
        if beyond && !tls {
            let message = "must be a loopback address with insecure_plaintext: nothing listens beyond it without TLS";
            r.problem("metrics.listen", &text, message);
        }
        let client_certificate = r.bool("metrics.client_certificate", false);
        if client_certificate && !beyond {
            let message = "says nothing here: on loopback the port is served without TLS";
            r.problem("metrics.client_certificate", "true", message);
        }
        Self { address, client_certificate }
    }

    /// Served with TLS: beyond loopback always.
    pub(crate) fn secured(&self) -> bool {
        self.address.is_some_and(|address| !address.ip().is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, tls: bool) -> Result<Listen, String> {
        let mut r = Reader::parse(text).unwrap();
        let listen = Listen::read(&mut r, 15870, tls);
        r.finish().map(|()| listen).map_err(|problems| problems.to_string())
    }

    #[test]
    fn it_is_on_loopback_unless_somebody_says_otherwise() {
        let usual = read("", false).unwrap();
        assert_eq!(usual.address.unwrap().to_string(), "127.0.0.1:15870");
        assert!(!usual.secured() && !usual.client_certificate);
        assert_eq!(read("[metrics]\nlisten = \"\"\n", false).unwrap().address, None);
    }

    #[test]
    fn beyond_loopback_it_is_never_without_tls() {
        let wide = "[metrics]\nlisten = \"0.0.0.0:15870\"\n";
        assert!(read(wide, true).unwrap().secured());
        assert!(read(wide, false).unwrap_err().contains("nothing listens beyond it without TLS"));
        let certified = read("[metrics]\nclient_certificate = true\n", true).unwrap_err();
        assert!(certified.contains("says nothing here"), "{certified}");
        assert!(read("[metrics]\nlisten = \"here\"\n", true).unwrap_err().contains("must be ADDRESS:PORT"));
    }
}
