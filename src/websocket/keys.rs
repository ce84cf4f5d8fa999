//! The masking keys of one direction (RFC 6455 §5.3).

use std::io;

use super::Role;

/// Masking keys: random for a client, none for a server. RFC 6455 §5.3 asks for a
/// strong source, so they come from the system, many at a time.
pub(crate) enum Keys {
    Server,
    Client { pool: Box<[u8; POOL]>, used: usize },
}

impl Keys {
    pub(crate) fn new(role: Role) -> Self {
        match role {
            Role::Server => Self::Server,
            Role::Client => Self::Client {
                pool: Box::new([0; POOL]),
                used: POOL,
            },
        }
    }

    pub(crate) fn next(&mut self) -> io::Result<Option<[u8; 4]>> {
        let Self::Client { pool, used } = self else {
            return Ok(None);
        };
        if *used == POOL {
            getrandom::fill(&mut pool[..])?;
            *used = 0;
        }
        let at = *used;
        *used += 4;
        Ok(Some([pool[at], pool[at + 1], pool[at + 2], pool[at + 3]]))
    }
}

const POOL: usize = 256;
