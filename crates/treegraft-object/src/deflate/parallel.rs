//! Compressing a large content on threads beside the one that reads it.

use std::{
    io, mem,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread,
};

use super::{Deflater, Piece, Pieces};

/// Threads that compress, which is as much as reading takes that puts together, inflates and hashes. The stream depends on
/// how many there are, so it is the same number everywhere.
const HELPERS: usize = 2;

/// Compresses pieces on threads that take turns, and gives what they become in order.
pub(crate) struct ParallelDeflater {
    helpers: [Helper; HELPERS],
    /// Whose turn it is.
    next: usize,
    /// The piece that is being filled.
    piece: Vec<u8>,
}

struct Helper {
    pieces: SyncSender<(Vec<u8>, Piece)>,
    compressed: Receiver<Compressed>,
    is_busy: bool,
}

struct Compressed {
    bytes: Vec<u8>,
    /// What they were made of, for another piece.
    piece: Vec<u8>,
}

impl ParallelDeflater {
    /// Calls something with threads for one content, which compress with a level of zlib's. Fails when the system gives no
    /// threads.
    pub(crate) fn with<T>(zlib_level: u32, compress: impl FnOnce(&mut Self) -> T) -> io::Result<T> {
        thread::scope(|scope| {
            let start = || -> io::Result<Helper> {
                let (pieces, to_do) = sync_channel(1);
                let (done, compressed) = sync_channel(1);
                thread::Builder::new().spawn_scoped(scope, move || run(zlib_level, &to_do, &done))?;
                Ok(Helper { pieces, compressed, is_busy: false })
            };
            let helpers = [start()?, start()?];
            Ok(compress(&mut Self { helpers, next: 0, piece: Vec::new() }))
        })
    }

    /// Takes the next helper, and gives what it has made.
    fn turn(&mut self, write: &mut impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<(&mut Helper, Vec<u8>)> {
        let helper = &mut self.helpers[self.next];
        self.next = (self.next + 1) % HELPERS;
        let mut spare = Vec::new();
        if mem::take(&mut helper.is_busy) {
            let Compressed { bytes, piece } = helper.compressed.recv().expect("the thread runs as long as its helper");
            write(&bytes)?;
            spare = piece;
        }
        Ok((helper, spare))
    }
}

impl Pieces for ParallelDeflater {
    fn next_piece(&mut self, bytes: usize) -> &mut [u8] {
        self.piece.resize(bytes, 0);
        &mut self.piece
    }

    fn compress(&mut self, which: Piece, write: &mut impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let piece = mem::take(&mut self.piece);
        let (helper, spare) = self.turn(write)?;
        helper.pieces.send((piece, which)).expect("the thread runs as long as its helper");
        helper.is_busy = true;
        self.piece = spare;
        if which == Piece::Last {
            for _ in 0..HELPERS {
                let _ = self.turn(write)?;
            }
        }
        Ok(())
    }
}

/// Compresses pieces until there are no more, or nobody takes what they become.
fn run(zlib_level: u32, to_do: &Receiver<(Vec<u8>, Piece)>, done: &SyncSender<Compressed>) {
    Deflater::with(zlib_level, |deflater| {
        for (piece, which) in to_do {
            let bytes = deflater.compressed(&piece, which).to_vec();
            if done.send(Compressed { bytes, piece }).is_err() {
                return;
            }
        }
    });
}
