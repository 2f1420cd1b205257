//! A PTY in this very process: what the machine does without Berth.

use portable_pty::{Child, ChildKiller, CommandBuilder, MasterPty, NativePtySystem, PtySize, PtySystem};
use std::io::{Read, Write};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A program on a PTY.
pub(crate) struct Pty {
    pub(crate) reader: Box<dyn Read + Send>,
    pub(crate) writer: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    _master: Box<dyn MasterPty + Send>,
}

impl Pty {
    pub(crate) fn spawn(argv: &[&str]) -> Self {
        let size = PtySize { rows: 24, cols: 80, pixel_width: 0, pixel_height: 0 };
        let pair = NativePtySystem::default().openpty(size).expect("a PTY");
        let mut command = CommandBuilder::new(argv[0]);
        command.args(&argv[1..]);
        command.env("PS1", e2e::server::PROMPT);
        let child = pair.slave.spawn_command(command).expect("a program");
        drop(pair.slave);
        let reader = pair.master.try_clone_reader().expect("a reader");
        let writer = pair.master.take_writer().expect("a writer");
        Self { reader, writer, child, _master: pair.master }
    }

    /// Prints without end, and is read as fast as can be.
    pub(crate) fn flood() -> Flood {
        let mut pty = Self::spawn(&["yes"]);
        let killer = pty.child.clone_killer();
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0u8; 65536];
            while pty.reader.read(&mut buffer).is_ok_and(|n| n > 0) {}
        });
        Flood { killer, reader }
    }

    /// Reads until `text` was seen.
    pub(crate) fn wait_for(&mut self, text: &str) {
        let (mut seen, mut buffer) = (Vec::new(), [0u8; 65536]);
        while !e2e::terminal::contains(&seen, text.as_bytes()) {
            let n = self.reader.read(&mut buffer).expect("output");
            seen.extend_from_slice(&buffer[..n]);
        }
    }

    /// Round trips of one key each.
    pub(crate) fn echoes(&mut self, rounds: usize) -> Vec<Duration> {
        let mut key = [0u8; 1];
        let mut round = || {
            let begun = Instant::now();
            self.writer.write_all(b"k").expect("to type");
            self.reader.read_exact(&mut key).expect("an echo");
            begun.elapsed()
        };
        // The first ones pay for what is loaded late.
        let mut times: Vec<Duration> = (0..rounds + rounds / 10).map(|_| round()).collect();
        times.split_off(rounds / 10)
    }

    /// Reads so many bytes; answers the time from the first on.
    pub(crate) fn drain(&mut self, bytes: usize) -> Duration {
        let (mut left, mut buffer, mut begun) = (bytes, vec![0u8; 65536], None);
        while left > 0 {
            let n = self.reader.read(&mut buffer).expect("output");
            begun.get_or_insert_with(Instant::now);
            left = left.saturating_sub(n);
        }
        begun.map_or(Duration::ZERO, |begun: Instant| begun.elapsed())
    }

    /// Ctrl-C into a flood that is read at `rate` bytes a second, until the prompt.
    pub(crate) fn interrupt(&mut self, rate: f64) -> Duration {
        self.wait_for(e2e::server::PROMPT);
        self.writer.write_all(b"yes\n").expect("to type");
        let (begun, mut read, mut seen, mut buffer) = (Instant::now(), 0usize, Vec::new(), [0u8; 4096]);
        let mut pressed = None;
        loop {
            let n = self.reader.read(&mut buffer).expect("output");
            read += n;
            std::thread::sleep(Duration::from_secs_f64(read as f64 / rate).saturating_sub(begun.elapsed()));
            if pressed.is_none() && begun.elapsed() > Duration::from_secs(2) {
                self.writer.write_all(b"\x03").expect("to type");
                pressed = Some(Instant::now());
                seen.clear();
            }
            seen.extend_from_slice(&buffer[..n]);
            if let Some(pressed) = pressed
                && e2e::terminal::contains(&seen, e2e::server::PROMPT.as_bytes())
            {
                return pressed.elapsed();
            }
            let cut = seen.len().saturating_sub(64);
            seen.drain(..cut);
        }
    }
}

/// A PTY that prints without end, and its reader.
pub(crate) struct Flood {
    killer: Box<dyn ChildKiller + Send + Sync>,
    reader: JoinHandle<()>,
}

impl Flood {
    /// Ends it.
    pub(crate) fn stop(mut self) {
        // It may have ended already.
        let _ = self.killer.kill();
        self.reader.join().expect("the flood's reader");
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
