//! The slow link and the web server do to bytes what they promise.
#![expect(clippy::unwrap_used, reason = "a test ends where its socket or file does not work")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use treegraft_testkit::{Direction, LinkOptions, SlowLink, SplitMix64, StaticServer};

/// Starts a server that sends back what it receives, for any number of connections.
fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let (mut input, mut output) = (&stream, &stream);
                std::io::copy(&mut input, &mut output).ok();
                stream.shutdown(Shutdown::Write).ok();
            });
        }
    });
    addr
}

/// Sends the data and returns all that comes back until the end or a reset.
fn exchange(link: &SlowLink, data: &[u8]) -> Vec<u8> {
    let stream = TcpStream::connect(link.addr()).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(data).ok();
            stream.shutdown(Shutdown::Write).ok();
        });
        let mut back = Vec::new();
        (&stream).read_to_end(&mut back).ok();
        back
    })
}

#[test]
fn carries_and_counts_every_byte_of_several_connections() {
    let link = SlowLink::start(echo_server(), LinkOptions::default());
    let data = SplitMix64::new(1).bytes(3_000_000);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert!(exchange(&link, &data) == data, "the link changes no byte by itself"));
        }
    });
    for direction in [Direction::Up, Direction::Down] {
        assert_eq!(link.carried_bytes(direction), 9_000_000, "every byte is counted in its direction");
    }
    assert_eq!(link.connections(), 3, "every connection is counted");
}

#[test]
fn a_byte_takes_no_less_than_the_delay_and_the_width() {
    let delay = Duration::from_millis(30);
    let options = LinkOptions { one_way_delay: delay, up_bytes_per_sec: Some(1_000_000), ..LinkOptions::default() };
    let link = SlowLink::start(echo_server(), options);
    let started = Instant::now();
    let back = exchange(&link, &vec![7; 200_000]);
    assert_eq!(back.len(), 200_000, "a slow link still carries everything");
    // Handshake (a round trip), 200 ms through the line, and a round trip for the echo.
    let least = 4 * delay + Duration::from_millis(200);
    assert!(started.elapsed() >= least, "bytes cannot be faster than the line: {:?} < {least:?}", started.elapsed());
}

#[test]
fn cuts_after_the_asked_number_of_bytes_and_accepts_again() {
    let link = SlowLink::start(echo_server(), LinkOptions::default());
    link.cut_after(Direction::Up, 100_001);
    let back = exchange(&link, &vec![1; 500_000]);
    assert!(back.len() <= 100_001, "nothing comes through after the cut, but {} bytes did", back.len());
    assert_eq!(link.carried_bytes(Direction::Up), 100_001, "the link carries exactly up to the cut");
    assert_eq!(exchange(&link, b"again"), b"again", "a new connection works after a cut");
}

#[test]
fn flips_exactly_one_byte() {
    let link = SlowLink::start(echo_server(), LinkOptions::default());
    link.flip_byte_at(Direction::Down, 70_000);
    let mut back = exchange(&link, &vec![0x0f; 200_000]);
    assert_eq!(back[70_000], 0xf0, "all bits of the byte are inverted");
    back[70_000] = 0x0f;
    assert!(back == vec![0x0f; 200_000], "no other byte is changed");
}

#[test]
fn stalls_until_told_to_go_on() {
    let link = SlowLink::start(echo_server(), LinkOptions::default());
    link.stall_after(Direction::Down, 10);
    let mut stream = TcpStream::connect(link.addr()).unwrap();
    stream.write_all(b"0123456789abcdef").unwrap();
    let mut first = [0; 10];
    stream.read_exact(&mut first).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let stalled = stream.read(&mut [0; 1]).unwrap_err();
    assert_eq!(stalled.kind(), std::io::ErrorKind::WouldBlock, "nothing comes out of a stalled link");
    link.resume();
    stream.set_read_timeout(None).unwrap();
    let mut rest = [0; 6];
    stream.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"abcdef", "a resumed link has lost nothing");
}

#[test]
fn ends_a_stalled_connection_when_it_is_cut_or_dropped() {
    for end in [SlowLink::cut_now as fn(&SlowLink), |_| {}] {
        let link = SlowLink::start(echo_server(), LinkOptions::default());
        link.stall_after(Direction::Up, 0);
        let mut stream = TcpStream::connect(link.addr()).unwrap();
        stream.write_all(b"lost").unwrap();
        thread::sleep(Duration::from_millis(20));
        end(&link);
        drop(link);
        let read = stream.read(&mut [0; 4]).unwrap_or(0);
        assert_eq!(read, 0, "a stalled connection that is cut only ends");
    }
}

#[test]
fn refuses_and_accepts_new_connections() {
    let link = SlowLink::start(echo_server(), LinkOptions::default());
    link.refuse_new();
    assert_eq!(exchange(&link, b"lost"), b"", "a refused connection carries nothing");
    link.accept_new();
    assert_eq!(exchange(&link, b"kept"), b"kept", "connections work when they are accepted again");
}

/// Sends requests over one connection, the last of which has to close it, and returns the answers.
fn ask(server: &StaticServer, requests: &str) -> String {
    let mut stream = TcpStream::connect(server.addr()).unwrap();
    stream.write_all(requests.as_bytes()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    answers
}

#[test]
fn serves_files_over_a_kept_connection() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    fs::write(folder.path().join("sub/a+b"), "content").unwrap();
    let server = StaticServer::start(folder.path());
    let answers = ask(
        &server,
        "GET /sub/a%2Bb HTTP/1.1\r\n\r\nHEAD /sub/a+b?query HTTP/1.1\r\n\r\nPUT /x HTTP/1.1\r\n\r\n\
         GET /missing HTTP/1.1\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(answers.matches("content").count(), 1, "GET has the body, HEAD has not:\n{answers}");
    assert_eq!(answers.matches("Content-Length: 7").count(), 2, "GET and HEAD tell the length:\n{answers}");
    let statuses: Vec<u16> = server.requests().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [200, 200, 405, 404], "every request is answered in order and recorded");
    server.clear_requests();
    assert_eq!(server.requests(), [], "the record can be cleared");
}

#[test]
fn serves_nothing_outside_of_its_folder() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("public")).unwrap();
    fs::write(folder.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink("../secret", folder.path().join("public/link")).unwrap();
    let server = StaticServer::start(&folder.path().join("public"));
    for path in ["/../secret", "/%2e%2e/secret", "/./../secret", "//etc/passwd", "/link", "secret", "/a%00"] {
        ask(&server, &format!("GET {path} HTTP/1.0\r\n\r\n"));
        let status = server.requests().last().unwrap().status;
        assert_eq!(status, 404, "`{path}` leads out of the folder and must not be found");
    }
}
