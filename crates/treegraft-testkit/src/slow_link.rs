//! A relay between two TCP sockets that behaves like a long, narrow or broken line.
//!
//! ```text
//! client ──► reader ─► entrance of the line ─► queue ─► writer ──► server      Direction::Up
//! client ◄── writer ◄─ queue ◄─ entrance of the line ◄─ reader ◄── server      Direction::Down
//! ```
//!
//! Each direction is one line that all connections share. A piece that is read waits until the line is free, takes
//! `length / bytes_per_sec` to enter it and leaves it `one_way_delay` later. Readers read hardly ahead of the line, so
//! that a sender feels a narrow line at once; what is on its way is bounded too (see `MIN_IN_FLIGHT_BYTES`).
//! Positions of faults count the bytes that left the line in that direction, over all connections, since the start.
//! As on a real line, the first byte of a client comes one round trip late, and so does a server that speaks first; only
//! `connect` itself returns at once.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The largest piece that moves at once.
const MAX_PIECE_BYTES: usize = 64 * 1024;
/// The smallest piece on a narrow line, about one packet.
const MIN_PIECE_BYTES: usize = 1400;
/// A piece should not hold the line longer than this, in parts of a second (2 ms).
const PIECES_PER_SEC: u64 = 500;
/// How long before the line is free a reader wakes: more than a sleep overshoots, so that a capped line stays full.
const READ_AHEAD: Duration = Duration::from_millis(3);
/// The least that may be on its way in one direction of a connection; wide lines may hold twice their own volume.
const MIN_IN_FLIGHT_BYTES: usize = 4 * 1024 * 1024;

/// One of the two directions of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// How long and how wide a link is; the default is neither limited nor delayed.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkOptions {
    /// How long a byte is on its way; a round trip takes twice as long.
    pub one_way_delay: Duration,
    /// How many bytes a second all connections together carry to the server, or no limit.
    pub up_bytes_per_sec: Option<u64>,
    /// How many bytes a second all connections together carry to the client, or no limit.
    pub down_bytes_per_sec: Option<u64>,
}

/// A running relay; it ends with all its connections when it is dropped.
#[derive(Debug)]
pub struct SlowLink {
    addr: SocketAddr,
    link: Arc<Link>,
    acceptor: Option<JoinHandle<()>>,
}

impl SlowLink {
    /// Starts a relay on a free port of loopback that leads to the target.
    pub fn start(target: SocketAddr, options: LinkOptions) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let link = Arc::new(Link {
            target,
            delay: options.one_way_delay,
            up: Line::new(options.up_bytes_per_sec, options.one_way_delay),
            down: Line::new(options.down_bytes_per_sec, options.one_way_delay),
            connections: Mutex::default(),
            accepted: AtomicUsize::new(0),
            refusing: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        });
        let acceptor = thread::spawn({
            let link = Arc::clone(&link);
            move || link.accept(&listener)
        });
        Self { addr, link, acceptor: Some(acceptor) }
    }

    /// Returns the address that stands for the target.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the port that stands for the target.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Returns how many bytes have left the link in a direction.
    pub fn carried_bytes(&self, direction: Direction) -> u64 {
        self.link.line(direction).exit().carried_bytes
    }

    /// Returns how many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.link.accepted.load(Ordering::SeqCst)
    }

    /// Cuts all connections once that many bytes have left the link in a direction; new connections are possible.
    ///
    /// The receiver sees at most that many bytes and then an end or a reset. If as many have left already, the next byte
    /// cuts.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        self.add_fault(direction, bytes, FaultKind::Cut);
    }

    /// Lets nothing more out in a direction once that many bytes have left the link, until `resume`.
    pub fn stall_after(&self, direction: Direction, bytes: u64) {
        self.add_fault(direction, bytes, FaultKind::Stall);
    }

    /// Inverts all bits of the byte that leaves the link in a direction as number `position`, counted from 0.
    pub fn flip_byte_at(&self, direction: Direction, position: u64) {
        self.add_fault(direction, position, FaultKind::Flip);
    }

    /// Ends all stalls.
    pub fn resume(&self) {
        for line in [&self.link.up, &self.link.down] {
            line.exit().stalled = false;
            line.moved.notify_all();
        }
    }

    /// Cuts all connections now; new ones are possible.
    pub fn cut_now(&self) {
        self.link.cut();
    }

    /// Closes every new connection at once from now on, as if the server were not there.
    pub fn refuse_new(&self) {
        self.link.refusing.store(true, Ordering::SeqCst);
    }

    /// Accepts new connections again.
    pub fn accept_new(&self) {
        self.link.refusing.store(false, Ordering::SeqCst);
    }

    fn add_fault(&self, direction: Direction, position: u64, kind: FaultKind) {
        let line = self.link.line(direction);
        let mut exit = line.exit();
        exit.faults.push(Fault { position, kind });
        exit.faults.sort_by_key(|fault| fault.position);
    }
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        self.link.stopped.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which then sees that it has to end.
        TcpStream::connect(self.addr).ok();
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().ok();
        }
        self.link.cut();
    }
}

#[derive(Debug)]
struct Link {
    target: SocketAddr,
    delay: Duration,
    up: Line,
    down: Line,
    connections: Mutex<Vec<Arc<Connection>>>,
    accepted: AtomicUsize,
    refusing: AtomicBool,
    stopped: AtomicBool,
}

impl Link {
    fn line(&self, direction: Direction) -> &Line {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            let Ok(client) = client else { continue };
            if self.refusing.load(Ordering::SeqCst) {
                continue;
            }
            self.accepted.fetch_add(1, Ordering::SeqCst);
            let Ok(server) = TcpStream::connect(self.target) else { continue };
            for socket in [&client, &server] {
                socket.set_nodelay(true).ok();
            }
            let connection = Arc::new(Connection { client, server, cut: AtomicBool::new(false) });
            let mut connections = lock(&self.connections);
            connections.retain(|known| !known.is_cut());
            connections.push(Arc::clone(&connection));
            drop(connections);
            // The handshake of a real line: the client may send after a round trip, the server after one and a half.
            let now = Instant::now();
            self.carry(&connection, Direction::Up, now + 2 * self.delay);
            self.carry(&connection, Direction::Down, now + 3 * self.delay);
        }
    }

    /// Starts the two threads that move the bytes of one direction of a connection.
    fn carry(self: &Arc<Self>, connection: &Arc<Connection>, direction: Direction, opened: Instant) {
        let pipe = Arc::new(Pipe::default());
        thread::spawn({
            let (link, connection, pipe) = (Arc::clone(self), Arc::clone(connection), Arc::clone(&pipe));
            move || {
                link.read_into(&pipe, &connection, direction, opened).ok();
                pipe.push(None, Instant::now().max(opened) + link.delay);
            }
        });
        let (link, connection) = (Arc::clone(self), Arc::clone(connection));
        thread::spawn(move || {
            if link.write_from(&pipe, &connection, direction).is_err() {
                connection.cut();
            }
            pipe.close();
        });
    }

    fn read_into(&self, pipe: &Pipe, from: &Connection, direction: Direction, opened: Instant) -> io::Result<()> {
        let line = self.line(direction);
        let mut socket = match direction {
            Direction::Up => &from.client,
            Direction::Down => &from.server,
        };
        let mut buffer = vec![0; line.piece_bytes];
        loop {
            let length = socket.read(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            let inside = line.enter(length, opened);
            if !pipe.wait_for_room(line.in_flight_bytes) {
                return Ok(());
            }
            pipe.push(Some(buffer[..length].to_vec()), inside + self.delay);
            sleep_until(inside.checked_sub(READ_AHEAD).unwrap_or(inside));
        }
    }

    fn write_from(&self, pipe: &Pipe, to: &Connection, direction: Direction) -> io::Result<()> {
        let line = self.line(direction);
        let mut socket = match direction {
            Direction::Up => &to.server,
            Direction::Down => &to.client,
        };
        while let Some((mut piece, due)) = pipe.pop() {
            sleep_until(due);
            let mut rest = piece.as_mut_slice();
            while !rest.is_empty() {
                let step = line.leave(rest, to);
                let (now, later) = rest.split_at_mut(step.allowed_bytes);
                socket.write_all(now)?;
                rest = later;
                if step.cut {
                    self.cut();
                    return Ok(());
                }
            }
            pipe.delivered(piece.len());
        }
        drop(line.wait_out_stall(to));
        socket.shutdown(Shutdown::Write)
    }

    fn cut(&self) {
        for connection in lock(&self.connections).drain(..) {
            connection.cut();
        }
        // Writers in a stall have to see that their connection is gone. Taking the lock in between makes sure that none
        // of them is just between looking at its connection and waiting.
        for line in [&self.up, &self.down] {
            drop(line.exit());
            line.moved.notify_all();
        }
    }
}

#[derive(Debug)]
struct Connection {
    client: TcpStream,
    server: TcpStream,
    cut: AtomicBool,
}

impl Connection {
    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        self.client.shutdown(Shutdown::Both).ok();
        self.server.shutdown(Shutdown::Both).ok();
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }
}

/// One direction of the link, which all connections share.
#[derive(Debug)]
struct Line {
    bytes_per_sec: Option<u64>,
    piece_bytes: usize,
    in_flight_bytes: usize,
    /// When the last piece has entered the line completely.
    busy_until: Mutex<Option<Instant>>,
    exit: Mutex<Exit>,
    /// Told when a stall ends or a connection is cut.
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Exit {
    carried_bytes: u64,
    stalled: bool,
    /// Sorted by position.
    faults: Vec<Fault>,
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    position: u64,
    kind: FaultKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FaultKind {
    Cut,
    Stall,
    Flip,
}

/// What may leave the line next.
struct Step {
    allowed_bytes: usize,
    cut: bool,
}

impl Line {
    fn new(bytes_per_sec: Option<u64>, one_way_delay: Duration) -> Self {
        let to_usize = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let piece_bytes = bytes_per_sec.map_or(MAX_PIECE_BYTES, |rate| to_usize(rate / PIECES_PER_SEC));
        let round_trip_ms = u64::try_from(2 * one_way_delay.as_millis()).unwrap_or(u64::MAX);
        // A line without limit is taken as one of 1 GB/s.
        let volume = bytes_per_sec.unwrap_or(1_000_000_000).saturating_mul(round_trip_ms) / 1000;
        Self {
            bytes_per_sec,
            piece_bytes: piece_bytes.clamp(MIN_PIECE_BYTES, MAX_PIECE_BYTES),
            in_flight_bytes: to_usize(volume.saturating_mul(2)).max(MIN_IN_FLIGHT_BYTES),
            busy_until: Mutex::new(None),
            exit: Mutex::default(),
            moved: Condvar::new(),
        }
    }

    /// Takes the next free time on the line, not before `opened`, and returns when the piece is inside.
    fn enter(&self, length: usize, opened: Instant) -> Instant {
        let earliest = Instant::now().max(opened);
        let Some(rate) = self.bytes_per_sec else { return earliest };
        let mut busy_until = lock(&self.busy_until);
        let start = busy_until.map_or(earliest, |busy| busy.max(earliest));
        let length = u64::try_from(length).expect("a piece is small");
        let inside = start + Duration::from_nanos(length.saturating_mul(1_000_000_000) / rate.max(1));
        *busy_until = Some(inside);
        inside
    }

    fn exit(&self) -> MutexGuard<'_, Exit> {
        lock(&self.exit)
    }

    fn wait_out_stall(&self, connection: &Connection) -> MutexGuard<'_, Exit> {
        let mut exit = self.exit();
        while exit.stalled && !connection.is_cut() {
            exit = self.moved.wait(exit).unwrap_or_else(PoisonError::into_inner);
        }
        exit
    }

    /// Counts the bytes that may be written now, and applies the faults that lie among them.
    fn leave(&self, piece: &mut [u8], connection: &Connection) -> Step {
        let mut exit = self.wait_out_stall(connection);
        let offset_in = |exit: &Exit, fault: &Fault| {
            // A fault behind the current position comes into effect at once.
            usize::try_from(fault.position.saturating_sub(exit.carried_bytes)).unwrap_or(usize::MAX)
        };
        let mut step = Step { allowed_bytes: piece.len(), cut: false };
        while let Some(fault) = exit.faults.first().copied() {
            let offset = offset_in(&exit, &fault);
            // A cut or a stall may lie right behind the piece, a flipped byte has to be in it.
            let beyond = if fault.kind == FaultKind::Flip { offset >= piece.len() } else { offset > piece.len() };
            if beyond {
                break;
            }
            exit.faults.remove(0);
            match fault.kind {
                FaultKind::Flip => {
                    piece[offset] = !piece[offset];
                    continue;
                }
                FaultKind::Cut => step = Step { allowed_bytes: offset, cut: true },
                FaultKind::Stall => {
                    step.allowed_bytes = offset;
                    exit.stalled = true;
                }
            }
            break;
        }
        exit.carried_bytes += u64::try_from(step.allowed_bytes).expect("a piece is small");
        step
    }
}

/// What is on its way in one direction of one connection.
#[derive(Debug, Default)]
struct Pipe {
    state: Mutex<PipeState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct PipeState {
    /// The pieces with the time when they come out; `None` is the end.
    pieces: VecDeque<(Option<Vec<u8>>, Instant)>,
    in_flight_bytes: usize,
    closed: bool,
}

impl Pipe {
    /// Waits until less than the limit is on its way; `false` when nobody takes anything out any more.
    fn wait_for_room(&self, limit_bytes: usize) -> bool {
        let mut state = lock(&self.state);
        while state.in_flight_bytes >= limit_bytes && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.closed
    }

    fn push(&self, piece: Option<Vec<u8>>, due: Instant) {
        let mut state = lock(&self.state);
        state.in_flight_bytes += piece.as_ref().map_or(0, Vec::len);
        state.pieces.push_back((piece, due));
        self.changed.notify_all();
    }

    /// Waits for the next piece; `None` at the end, after its delay.
    fn pop(&self) -> Option<(Vec<u8>, Instant)> {
        let mut state = lock(&self.state);
        loop {
            match state.pieces.pop_front() {
                Some((Some(piece), due)) => return Some((piece, due)),
                Some((None, due)) => {
                    drop(state);
                    sleep_until(due);
                    return None;
                }
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn delivered(&self, length: usize) {
        lock(&self.state).in_flight_bytes -= length;
        self.changed.notify_all();
    }

    fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }
}

fn sleep_until(time: Instant) {
    if let Some(wait) = time.checked_duration_since(Instant::now()) {
        thread::sleep(wait);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
