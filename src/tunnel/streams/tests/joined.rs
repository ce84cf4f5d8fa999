//! Sockets that the plane joins with streams.

use std::borrow::Cow;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use super::stage::*;
use crate::net::testing::{listen, tcp_pair};
use crate::threads::{self, Stack};
use crate::tunnel::streams::account::Account;
use crate::tunnel::streams::{Settings, join};
use crate::workers::Workers;
use crate::yamux::Cut;

/// Hears why a stream ended; gone with it.
struct Heard(Arc<parking_lot::Mutex<Vec<String>>>);

impl Account for Heard {
    fn moved_in(&self, _: usize) {}

    fn moved_out(&self, _: usize) {}

    fn ended(&self, how: &'static str) {
        self.0.lock().push(how.to_owned());
    }

    fn failed(&self, why: Cow<'static, str>) {
        self.0.lock().push(why.into_owned());
    }

    fn copy_failed(&self, why: String) {
        self.0.lock().push(why);
    }

    fn cut(&self, cut: Cut) {
        self.0.lock().push(format!("{cut:?}"));
    }
}

/// For neither direction, or only for the second one.
#[test]
fn a_stream_that_finds_no_thread_to_copy_on_is_reset_and_its_target_aborted() {
    for granted in [0, 1] {
        let (_listener, address) = listen();
        let mut plan = Plan::to(&address);
        plan.settings = settings();
        let stage = Stage::new(plan);
        let stream = stage.open_silent().0;
        let copiers = Workers::new("copy", Stack::Copy, Duration::ZERO);
        let (near, far) = tcp_pair();
        let heard = Arc::default();
        let account = Box::new(Heard(Arc::clone(&heard)));
        threads::testing::refuse_after(granted, 1);
        join(
            stream.clone(),
            Arc::new(near),
            account,
            &Settings::default(),
            &copiers,
        );
        assert_eq!(stream.cut(), Some(Cut::ByUs), "{granted}");
        let mut far = TcpStream::from(far);
        far.set_read_timeout(Some(LONG)).expect("limit");
        let error = far.read(&mut [0; 1]).expect_err("no clean end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{granted}");
        wait_until("the thread ends", || copiers.count() == 0);
        wait_until("nobody has it", || Arc::strong_count(&heard) == 1);
        assert_eq!(heard.lock()[0], "no thread can be had", "{granted}");
        drop(stream);
        stage.end();
    }
}
