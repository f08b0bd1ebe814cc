//! The prober against real sockets on loopback, each case on an address of its own.
#![allow(clippy::unwrap_used)]

use medevac_probe::{Answer, Key, Outcome, Responder, Target, probe, reach};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

const BOOT: &str = "3f1a2b3c-0000-4000-8000-000000000001";
const DEADLINE: Duration = Duration::from_millis(600);

fn ip(last: u8) -> IpAddr {
    IpAddr::from([127, 77, 0, last])
}

fn target(address: IpAddr, key: &Key, port: u16, banner_ports: Vec<u16>) -> Target {
    let planes = [("mgmt".to_owned(), address)].into();
    Target { host: "hv1".into(), planes, key: Some(key.clone()), banner_ports, port }
}

fn responder(address: IpAddr, host: &str, key: &Key) -> (Responder, u16) {
    let responder = Responder::start(&[address], 0, host, BOOT).unwrap();
    responder.set_key("aggregator", key.clone());
    let port = responder.addresses().next().unwrap().port();
    (responder, port)
}

async fn one(target: &Target) -> Outcome {
    probe(target, DEADLINE).await.remove(0)
}

/// A service that greets everyone who connects, as sshd does.
async fn banner_service(address: IpAddr) -> u16 {
    let listener = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"SSH-2.0-test\r\n").await;
        }
    });
    port
}

#[tokio::test]
async fn a_living_responder_is_user_space_and_tells_its_boot() {
    let key = Key::random().unwrap();
    let (_responder, port) = responder(ip(1), "hv1", &key);
    let ssh = banner_service(ip(1)).await;
    let started = Instant::now();
    let seen = one(&target(ip(1), &key, port, vec![ssh])).await;
    assert_eq!((seen.answer, seen.boot_id.as_str()), (Answer::UserSpace, BOOT));
    assert!(seen.responder && seen.banner, "{seen:?}");
    assert!(started.elapsed() < DEADLINE / 2, "nothing was left to wait for");
}

#[tokio::test]
async fn a_closed_port_is_kernel_only() {
    let seen = one(&target(ip(2), &Key::random().unwrap(), 9, vec![9])).await;
    assert_eq!((seen.answer, seen.responder, seen.banner), (Answer::KernelOnly, false, false));
}

#[tokio::test]
async fn a_banner_alone_is_user_space() {
    let ssh = banner_service(ip(3)).await;
    let seen = one(&target(ip(3), &Key::random().unwrap(), 9, vec![ssh])).await;
    assert_eq!((seen.answer, seen.responder, seen.banner), (Answer::UserSpace, false, true));
}

#[tokio::test]
async fn a_service_that_accepts_and_says_nothing_is_kernel_only() {
    // Never accepted: the kernel completes the handshake by itself, as on a frozen host.
    let silent = TcpListener::bind((ip(4), 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    let mute = UdpSocket::bind((ip(4), 0)).unwrap();
    let responder_port = mute.local_addr().unwrap().port();
    let started = Instant::now();
    let seen = one(&target(ip(4), &Key::random().unwrap(), responder_port, vec![port])).await;
    assert_eq!(seen.answer, Answer::KernelOnly);
    assert!(started.elapsed() >= DEADLINE, "user space had its whole time to answer");
}

#[tokio::test]
async fn an_answer_under_another_key_is_not_the_host_asked() {
    let (_responder, port) = responder(ip(5), "hv1", &Key::random().unwrap());
    let seen = one(&target(ip(5), &Key::random().unwrap(), port, vec![])).await;
    assert_eq!((seen.answer, seen.responder), (Answer::KernelOnly, false));
}

#[tokio::test]
async fn a_responder_does_not_answer_for_another_host() {
    let key = Key::random().unwrap();
    let (_responder, port) = responder(ip(6), "hv2", &key);
    let seen = one(&target(ip(6), &key, port, vec![])).await;
    assert_eq!((seen.answer, seen.responder), (Answer::KernelOnly, false));
}

#[tokio::test]
async fn a_forged_answer_is_kernel_at_most() {
    let liar = tokio::net::UdpSocket::bind((ip(7), 0)).await.unwrap();
    let port = liar.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((_, from)) = liar.recv_from(&mut buffer).await {
            let _ = liar.send_to(&buffer[..96], from).await;
        }
    });
    let seen = one(&target(ip(7), &Key::random().unwrap(), port, vec![])).await;
    assert_eq!((seen.answer, seen.responder), (Answer::KernelOnly, false));
}

#[tokio::test]
async fn one_lost_datagram_does_not_silence_a_responder() {
    let key = Key::random().unwrap();
    // Held by a socket that never answers, then by a responder: the first request is lost.
    let mute = UdpSocket::bind((ip(8), 0)).unwrap();
    let port = mute.local_addr().unwrap().port();
    let asked = target(ip(8), &key, port, vec![]);
    let late = async {
        tokio::time::sleep(DEADLINE / 4).await;
        drop(mute);
        let responder = Responder::start(&[ip(8)], port, "hv1", BOOT).unwrap();
        responder.set_key("aggregator", key.clone());
        tokio::time::sleep(DEADLINE).await;
    };
    let (seen, ()) = tokio::join!(one(&asked), late);
    assert_eq!((seen.answer, seen.responder), (Answer::UserSpace, true));
}

#[tokio::test]
async fn two_aggregators_each_have_their_key() {
    let (a, b) = (Key::random().unwrap(), Key::random().unwrap());
    let (responder, port) = responder(ip(9), "hv1", &a);
    responder.set_key("second", b.clone());
    for key in [a, b] {
        assert!(one(&target(ip(9), &key, port, vec![])).await.responder);
    }
}

#[tokio::test]
async fn planes_are_told_apart() {
    let key = Key::random().unwrap();
    let (_responder, port) = responder(ip(10), "hv1", &key);
    let mut both = target(ip(10), &key, port, vec![]);
    both.planes.insert("storage".into(), ip(11));
    let seen = probe(&both, DEADLINE).await;
    let of = |plane: &str| seen.iter().find(|o| o.plane == plane).unwrap().answer;
    assert_eq!((of("mgmt"), of("storage")), (Answer::UserSpace, Answer::KernelOnly));
}

#[tokio::test]
async fn a_stopped_responder_frees_its_port() {
    let key = Key::random().unwrap();
    let (first, port) = responder(ip(12), "hv1", &key);
    drop(first);
    Responder::start(&[ip(12)], port, "hv1", BOOT).unwrap();
}

#[tokio::test]
async fn a_reference_address_is_reached_by_any_answer() {
    assert!(reach(ip(13), DEADLINE).await);
}
