//! A small web server for the files of one folder.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// The longest line of a request that is read: longer than any path of a repository.
const MAX_LINE_BYTES: u64 = 16 * 1024;

/// One request that the server has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method, such as `GET`.
    pub method: String,
    /// The path as it was asked for, with its query.
    pub path: String,
    /// The status of the answer, such as 200 or 404.
    pub status: u16,
}

/// A web server on loopback for the files of one folder: `GET` and `HEAD`, kept connections, nothing else.
///
/// It ends, with all its connections, when the value is dropped.
#[derive(Debug)]
pub struct StaticServer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    stopped: AtomicBool,
    requests: Mutex<Vec<Request>>,
    connections: Mutex<Vec<TcpStream>>,
}

impl StaticServer {
    /// Starts to serve the folder on a free port.
    pub fn start(folder: &Path) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            stopped: AtomicBool::new(false),
            requests: Mutex::default(),
            connections: Mutex::default(),
        });
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept(&listener)
        });
        Self { addr, shared, acceptor: Some(acceptor) }
    }

    /// Returns the address that the server listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the address of the folder, without a slash at its end.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Returns the requests that were answered so far, in the order of their answers.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets the requests that were answered so far.
    pub fn clear_requests(&self) {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for StaticServer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which then sees that it has to end.
        TcpStream::connect(self.addr).ok();
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().ok();
        }
        for connection in self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            connection.shutdown(Shutdown::Both).ok();
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            let Ok(stream) = stream else { continue };
            stream.set_nodelay(true).ok();
            let Ok(handle) = stream.try_clone() else { continue };
            self.connections.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
            let shared = Arc::clone(self);
            // A client that goes away in the middle is its own business.
            thread::spawn(move || shared.serve(&stream).ok());
        }
    }

    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        let mut input = BufReader::new(stream);
        while let Some((head, keep)) = read_head(&mut input)? {
            self.answer(&head, keep, stream)?;
            if keep == Keep::Close {
                stream.shutdown(Shutdown::Write)?;
                break;
            }
        }
        Ok(())
    }

    fn answer(&self, head: &Head, keep: Keep, mut output: &TcpStream) -> io::Result<()> {
        let file = self.open(&head.path);
        let (status, reason) = match (head.method.as_str(), &file) {
            ("GET" | "HEAD", Some(_)) => (200, "OK"),
            ("GET" | "HEAD", None) => (404, "Not Found"),
            _ => (405, "Method Not Allowed"),
        };
        let body = file.filter(|_| status == 200);
        let length_bytes = match &body {
            Some(file) => file.metadata()?.len(),
            None => 0,
        };
        let request = Request { method: head.method.clone(), path: head.path.clone(), status };
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        let connection = if keep == Keep::Open { "keep-alive" } else { "close" };
        write!(
            output,
            "HTTP/1.1 {status} {reason}\r\nContent-Length: {length_bytes}\r\n\
             Content-Type: application/octet-stream\r\nConnection: {connection}\r\n\r\n"
        )?;
        if let Some(file) = body.filter(|_| head.method == "GET") {
            io::copy(&mut file.take(length_bytes), &mut output)?;
        }
        Ok(())
    }

    /// Opens the regular file for the path of a request; a path that leaves the folder finds nothing.
    fn open(&self, asked: &str) -> Option<File> {
        let decoded = percent_decode(asked.split('?').next()?)?;
        let relative = decoded.strip_prefix('/')?;
        let inside = relative.split('/').all(|part| !matches!(part, "." | ".." | "") && !part.contains('\0'));
        if !inside {
            return None;
        }
        // Links are followed to a place inside the folder alone.
        let path = fs::canonicalize(self.folder.join(relative)).ok()?;
        if !path.starts_with(fs::canonicalize(&self.folder).ok()?) || !path.is_file() {
            return None;
        }
        File::open(path).ok()
    }
}

struct Head {
    method: String,
    path: String,
}

/// Whether the connection lives on after the answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Open,
    Close,
}

/// Reads one request without a body, or `None` at the end of the connection.
fn read_head(input: &mut BufReader<&TcpStream>) -> io::Result<Option<(Head, Keep)>> {
    let mut line = String::new();
    if input.by_ref().take(MAX_LINE_BYTES).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (Some(method), Some(path), Some(version)) = (words.next(), words.next(), words.next()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a request line"));
    };
    let head = Head { method: method.to_owned(), path: path.to_owned() };
    let mut keep = if version == "HTTP/1.1" { Keep::Open } else { Keep::Close };
    loop {
        let mut field = String::new();
        let read = input.by_ref().take(MAX_LINE_BYTES).read_line(&mut field)?;
        if read == 0 || field.trim_end().is_empty() {
            return Ok(Some((head, keep)));
        }
        let field = field.to_ascii_lowercase();
        if let Some(value) = field.strip_prefix("connection:") {
            keep = if value.contains("close") { Keep::Close } else { Keep::Open };
        }
    }
}

/// Decodes `%41` and the like; `None` when the text is not valid.
fn percent_decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            decoded.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            decoded.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(decoded).ok()
}
