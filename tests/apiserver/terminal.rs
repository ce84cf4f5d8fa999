//! A program in a terminal.

use std::fs::File;
use std::io::{Read, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::{LIMIT, wait_for};

pub(crate) struct Terminal {
    child: Child,
    /// Our side.
    screen: File,
    shown: Receiver<String>,
    seen: String,
}

impl Terminal {
    /// The command makes its standard input its controlling terminal (`setsid
    /// --ctty`).
    pub(crate) fn start(mut command: Command, columns: u16, rows: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let screen = openpt(flags).expect("a terminal");
        grantpt(&screen).expect("granted");
        unlockpt(&screen).expect("unlocked");
        let name = ptsname(&screen, Vec::new()).expect("a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let inner = rustix::fs::open(name, flags, Mode::empty()).expect("its other side");
        let share = || Stdio::from(inner.try_clone().expect("cloned"));
        command.stdin(share()).stdout(share()).stderr(share());
        resize(&screen, columns, rows);
        let child = command.spawn().expect("it runs");
        // The command holds that side open, too, until it is dropped.
        drop((command, inner));

        let screen = File::from(screen);
        let mut read = screen.try_clone().expect("cloned");
        let (sender, shown) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buf = [0; 4096];
            // The end is an error here: nobody has the other side open any more.
            while let Ok(count @ 1..) = read.read(&mut buf) {
                let text = String::from_utf8_lossy(&buf[..count]).into_owned();
                if sender.send(text).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            screen,
            shown,
            seen: String::new(),
        }
    }

    /// Waits until it shows this, after all that was waited for before.
    #[track_caller]
    pub(crate) fn shows(&mut self, part: &str) {
        loop {
            if let Some(start) = self.seen.find(part) {
                self.seen.drain(..start + part.len());
                return;
            }
            let Ok(text) = self.shown.recv_timeout(LIMIT) else {
                panic!("{part:?} never came; this did: {:?}", self.seen);
            };
            self.seen.push_str(&text);
        }
    }

    pub(crate) fn types(&mut self, text: &str) {
        self.screen.write_all(text.as_bytes()).expect("it is open");
    }

    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let screen = self.screen.try_clone().expect("cloned");
        resize(&screen.into(), columns, rows);
    }

    pub(crate) fn end(mut self) -> ExitStatus {
        wait_for("its end", || self.child.try_wait().expect("ours"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has mostly ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resize(screen: &OwnedFd, columns: u16, rows: u16) {
    let size = Winsize {
        ws_col: columns,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(screen, size).expect("resized");
}
