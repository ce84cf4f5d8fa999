//! A panic is logged where it happens, with its backtrace; what it means is decided
//! by the thread's root (`threads`).

use std::backtrace::Backtrace;
use std::panic::PanicHookInfo;

use log::error;

use crate::threads;

/// Replaces the standard hook, which writes several lines of plain text.
pub(super) fn install() {
    std::panic::set_hook(Box::new(report));
}

fn report(info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    // `level` overrides the record's own name (line.rs); "panic" is the original's.
    error!(
        level = "panic",
        component = "panic",
        thread = threads::own_name().as_str(),
        place = place.as_str(),
        backtrace = Backtrace::force_capture().to_string().as_str();
        "{message}"
    );
    // Another one while this one unwinds would end the process.
    super::flush();
}
