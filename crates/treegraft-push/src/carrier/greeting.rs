//! From the login to the banner: finding the protocol in what a login prints, bringing the program where it is missing.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use treegraft_wire::RECEIVE_BANNER;

use super::{
    bootstrap::{
        Bootstrap, InstallFailure, Program,
        script::{self, Line, Needs},
    },
    stream::{Eager, Opened},
};
use crate::{Event, Reporter};

/// Most bytes before the banner: greetings, not a program that talks without end.
const MAX_NOISE_BYTES: usize = 64 << 10;

/// What was seen before the banner, for error messages.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen(Arc<Mutex<Sight>>);

#[derive(Debug, Default)]
pub(super) struct Sight {
    /// What was printed, without what is ours.
    pub(super) noise: Vec<u8>,
    /// Whether a POSIX shell has run our code.
    pub(super) has_shell: bool,
    /// Whether the banner came.
    pub(super) has_banner: bool,
    /// Whether more was printed than anybody reads.
    pub(super) is_endless: bool,
    /// Why the program could not be installed.
    pub(super) failure: Option<InstallFailure>,
}

impl Seen {
    pub(super) fn lock(&self) -> MutexGuard<'_, Sight> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a greeting needs to know.
pub(super) struct Greeter {
    pub(super) host: String,
    /// The word that lines of the far side's script have.
    pub(super) nonce: String,
    pub(super) bootstrap: Option<Arc<Bootstrap>>,
    pub(super) reporter: Arc<dyn Reporter>,
    pub(super) seen: Seen,
    pub(super) eager: Eager,
}

/// What the far side said next.
enum Heard {
    Banner,
    Needs(Needs),
    Failed(InstallFailure),
}

impl Greeter {
    /// Reads up to the banner. What is recorded in `eager` is handed on meanwhile, and once more to a program that had to
    /// be installed.
    pub(super) async fn greet<R, W>(self, mut input: R, mut output: W) -> io::Result<Opened<R, W>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut listener = Listener { input: &mut input, seen: &self.seen, nonce: &self.nonce, unread: Vec::new() };
        let heard = tokio::select! {
            biased;
            // A far side that does not read may still say why.
            Err(_) = self.eager.forward(&mut output) => listener.hear().await?,
            heard = listener.hear() => heard?,
        };
        let rest = match heard {
            Heard::Banner => {
                let rest = listener.unread;
                self.eager.finish(&mut output).await?;
                rest
            }
            Heard::Failed(failure) => return Err(self.fail(failure)),
            Heard::Needs(needs) => {
                self.supply(needs, &mut listener, &mut output).await?;
                let rest = listener.unread;
                self.eager.replay(&mut output).await?;
                rest
            }
        };
        Ok(Opened { input, output, rest })
    }

    /// Sends the program, and waits for its banner.
    async fn supply<R, W>(&self, needs: Needs, listener: &mut Listener<'_, R>, output: &mut W) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let Some(program) = self.bootstrap.as_ref().map(|bootstrap| bootstrap.program.clone()) else {
            return Err(self.fail(InstallFailure::Unknown("treegraft-needs".to_owned())));
        };
        let bytes = match (program.fits(&needs.kernel, &needs.machine), needs) {
            (true, _) => {
                self.reporter.event(Event::Installing { host: &self.host, bytes: program.size_bytes() });
                self.with_install_lines(program).await?
            }
            (false, Needs { installed: Some(_), .. }) => script::use_installed_lines(&self.nonce).into_bytes(),
            (false, Needs { kernel, machine, .. }) => {
                return Err(self.fail(InstallFailure::Machine { program_machine: program.machine(), kernel, machine }));
            }
        };
        let write = async {
            output.write_all(&bytes).await?;
            output.flush().await
        };
        let heard = tokio::select! {
            heard = listener.hear() => heard?,
            // Whether all of it was written or nobody reads any more: the far side says how it goes on.
            _ = write => listener.hear().await?,
        };
        match heard {
            Heard::Banner => Ok(()),
            Heard::Failed(failure) => Err(self.fail(failure)),
            Heard::Needs(_) => Err(self.fail(InstallFailure::Unknown("treegraft-needs".to_owned()))),
        }
    }

    async fn with_install_lines(&self, program: Program) -> io::Result<Vec<u8>> {
        let mut bytes = script::install_lines(&program, &self.nonce).into_bytes();
        let loaded = tokio::task::spawn_blocking(move || program.load()).await?.map_err(io::Error::other)?;
        bytes.extend(loaded);
        Ok(bytes)
    }

    fn fail(&self, failure: InstallFailure) -> io::Error {
        let error = io::Error::other(failure.to_string());
        self.seen.lock().failure = Some(failure);
        error
    }
}

/// Reads what the far side says.
struct Listener<'l, R> {
    input: &'l mut R,
    seen: &'l Seen,
    nonce: &'l str,
    /// Bytes that were read and not looked at yet: the beginning of a line, or what is behind the banner.
    unread: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Listener<'_, R> {
    /// Waits for the banner or for a line that is ours. It may be stopped while it waits.
    async fn hear(&mut self) -> io::Result<Heard> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(heard) = self.next_line()? {
                return Ok(heard);
            }
            let count = self.input.read(&mut chunk).await?;
            if count == 0 {
                // An unfinished line is a message as well.
                self.seen.lock().noise.append(&mut self.unread);
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the far side did not answer"));
            }
            self.unread.extend_from_slice(&chunk[..count]);
        }
    }

    /// Looks at all lines that are there.
    fn next_line(&mut self) -> io::Result<Option<Heard>> {
        while let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            let mut seen = self.seen.lock();
            // A greeting without an end of line stands before the banner.
            if let Some(greeting) = line.strip_suffix(RECEIVE_BANNER.as_bytes()) {
                seen.noise.extend_from_slice(greeting);
                seen.has_banner = true;
                return Ok(Some(Heard::Banner));
            }
            match script::line(&line, self.nonce) {
                Some(Line::Shell) => seen.has_shell = true,
                Some(Line::Needs(needs)) => return Ok(Some(Heard::Needs(needs))),
                Some(Line::Failed(code, message)) => {
                    return Ok(Some(Heard::Failed(InstallFailure::from_line(&code, message))));
                }
                None => seen.noise.extend_from_slice(&line),
            }
        }
        let mut seen = self.seen.lock();
        if seen.noise.len() + self.unread.len() > MAX_NOISE_BYTES {
            seen.is_endless = true;
            let reason = "the far side prints a lot, but is no `treegraft receive`";
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener<'l, R>(input: &'l mut R, seen: &'l Seen) -> Listener<'l, R> {
        Listener { input, seen, nonce: "abc", unread: Vec::new() }
    }

    #[tokio::test]
    async fn lines_are_heard_wherever_they_are_cut() {
        let said =
            b"Welcome\n> treegraft-shell 1 abc\ntreegraft-needs 1 abc Linux x86_64 \n$ treegraft-receive 1\nbehind\n";
        for cut in 0..=said.len() {
            let (first, second) = said.split_at(cut);
            let (mut input, seen) = (first.chain(second), Seen::default());
            let mut listener = listener(&mut input, &seen);
            let needs = Needs { kernel: "Linux".to_owned(), machine: "x86_64".to_owned(), installed: None };
            assert!(matches!(listener.hear().await, Ok(Heard::Needs(heard)) if heard == needs), "cut at {cut}");
            assert!(matches!(listener.hear().await, Ok(Heard::Banner)), "cut at {cut}");
            let mut rest = std::mem::take(&mut listener.unread);
            input.read_to_end(&mut rest).await.expect("memory can be read");
            assert_eq!(rest, b"behind\n", "nothing behind the banner is lost when it is cut at {cut}");
            let sight = seen.lock();
            assert!(sight.has_shell && sight.has_banner, "cut at {cut}");
            assert_eq!(sight.noise, b"Welcome\n$ ", "what is not ours is kept for messages");
        }
    }

    #[tokio::test]
    async fn an_end_before_the_banner_keeps_what_was_said() {
        let (mut input, seen) = (&b"Account expired\nBye"[..], Seen::default());
        let heard = listener(&mut input, &seen).hear().await;
        assert!(matches!(heard, Err(error) if error.kind() == io::ErrorKind::UnexpectedEof));
        assert_eq!(seen.lock().noise, b"Account expired\nBye");
        assert!(!seen.lock().has_shell, "nothing of ours has run");
    }

    #[tokio::test]
    async fn who_prints_without_end_is_not_heard_to_the_end() {
        for piece in [&b"y\n"[..], b"y"] {
            let (mut input, seen) = (&piece.repeat(1 << 20)[..], Seen::default());
            let heard = listener(&mut input, &seen).hear().await;
            assert!(matches!(heard, Err(error) if error.kind() == io::ErrorKind::InvalidData));
            assert!(seen.lock().is_endless, "with and without lines");
            assert!(seen.lock().noise.len() <= MAX_NOISE_BYTES + 4096, "memory is bounded");
        }
    }
}
