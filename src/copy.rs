//! `memcpy` and `memmove` of the static build, in place of musl's.
//!
//! musl's `memcpy` is `rep movsq` after a head that it copies byte by byte, slow
//! for operands that aren't aligned to each other, as TLS records and frame
//! headers make them; and its `memmove` of a block onto itself, which rustls does
//! with every unfinished record, goes backwards byte by byte. Together they took a
//! third of the agent's user time in streamed answers of 1 MiB (docs/benchmark.md).
//!
//! These copy up to 128 bytes through registers, everything loaded before anything
//! is stored, and more with `rep movsb`, which every x86-64 of the last ten years
//! does at the width of its caches. Both are here because musl's `memmove` jumps
//! into its `memcpy`: the linker takes both or none. The direction flag is clear on
//! entry by the ABI.

use std::arch::global_asm;

macro_rules! define {
    ($memcpy:literal, $memmove:literal) => {
        global_asm!(
            ".text",
            concat!(".globl ", $memmove),
            concat!(".type ", $memmove, ",@function"),
            ".p2align 5",
            concat!($memmove, ":"),
            "mov rax, rdi",
            "cmp rdx, 128",
            "jbe 3f",
            "mov rcx, rdi",
            "sub rcx, rsi",
            "cmp rcx, rdx",
            "jb 7f",
            "mov rcx, rdx",
            "rep movsb",
            "ret",
            "7:", // the target begins inside the source, or they are the same
            "test rcx, rcx",
            "jz 9f",
            "8:", // from the end, 64 bytes loaded before 64 are stored
            "movups xmm0, [rsi + rdx - 16]",
            "movups xmm1, [rsi + rdx - 32]",
            "movups xmm2, [rsi + rdx - 48]",
            "movups xmm3, [rsi + rdx - 64]",
            "movups [rdi + rdx - 16], xmm0",
            "movups [rdi + rdx - 32], xmm1",
            "movups [rdi + rdx - 48], xmm2",
            "movups [rdi + rdx - 64], xmm3",
            "sub rdx, 64",
            "cmp rdx, 128",
            "ja 8b",
            "jmp 3f",
            concat!(".globl ", $memcpy),
            concat!(".type ", $memcpy, ",@function"),
            ".p2align 5",
            concat!($memcpy, ":"),
            "mov rax, rdi",
            "cmp rdx, 128",
            "jbe 3f",
            "mov rcx, rdx",
            "rep movsb",
            "ret",
            "3:", // up to 128: everything is loaded before anything is stored
            "cmp rdx, 16",
            "jb 5f",
            "movups xmm0, [rsi]",
            "movups xmm1, [rsi + rdx - 16]",
            "cmp rdx, 32",
            "jbe 4f",
            "movups xmm2, [rsi + 16]",
            "movups xmm3, [rsi + rdx - 32]",
            "cmp rdx, 64",
            "jbe 2f",
            "movups xmm4, [rsi + 32]",
            "movups xmm5, [rsi + 48]",
            "movups xmm6, [rsi + rdx - 64]",
            "movups xmm7, [rsi + rdx - 48]",
            "movups [rdi + 32], xmm4",
            "movups [rdi + 48], xmm5",
            "movups [rdi + rdx - 64], xmm6",
            "movups [rdi + rdx - 48], xmm7",
            "2:",
            "movups [rdi + 16], xmm2",
            "movups [rdi + rdx - 32], xmm3",
            "4:",
            "movups [rdi], xmm0",
            "movups [rdi + rdx - 16], xmm1",
            "9:",
            "ret",
            "5:",
            "cmp edx, 8",
            "jb 6f",
            "mov rcx, [rsi]",
            "mov r8, [rsi + rdx - 8]",
            "mov [rdi], rcx",
            "mov [rdi + rdx - 8], r8",
            "ret",
            "6:",
            "cmp edx, 4",
            "jb 20f",
            "mov ecx, [rsi]",
            "mov r8d, [rsi + rdx - 4]",
            "mov [rdi], ecx",
            "mov [rdi + rdx - 4], r8d",
            "ret",
            "20:",
            "test edx, edx",
            "jz 9b",
            "movzx ecx, byte ptr [rsi]",
            "movzx r8d, byte ptr [rsi + rdx - 1]",
            "mov r9, rdx",
            "shr r9, 1",
            "movzx r10d, byte ptr [rsi + r9]",
            "mov [rdi + r9], r10b",
            "mov [rdi + rdx - 1], r8b",
            "mov [rdi], cl",
            "ret",
        );
    };
}

#[cfg(not(test))]
define!("memcpy", "memmove");

#[cfg(test)]
define!("tested_memcpy", "tested_memmove");

#[cfg(test)]
mod tests {
    use std::ffi::c_void;

    unsafe extern "C" {
        fn tested_memcpy(to: *mut c_void, from: *const c_void, count: usize) -> *mut c_void;
        fn tested_memmove(to: *mut c_void, from: *const c_void, count: usize) -> *mut c_void;
    }

    #[test]
    fn every_length_at_every_distance() {
        let pattern: Vec<u8> = (0..1500_u32).map(|i| (i * 7 + i / 256) as u8).collect();
        for count in 0..600 {
            for to in (400..=600).step_by(if count < 140 { 1 } else { 9 }) {
                let mut want = pattern.clone();
                want.copy_within(500..500 + count, to);
                let mut got = pattern.clone();
                let start: *mut u8 = got.as_mut_ptr();
                // SAFETY: both ranges lie within the 1500 bytes of `got`.
                let returned =
                    unsafe { tested_memmove(start.add(to).cast(), start.add(500).cast(), count) };
                assert_eq!(returned as usize, start as usize + to);
                assert!(got == want, "{count} bytes from 500 to {to}");
            }
            let mut got = [0_u8; 640];
            // SAFETY: 13 + 599 bytes fit into `got`, and `pattern` is longer.
            unsafe {
                tested_memcpy(
                    got[13..].as_mut_ptr().cast(),
                    pattern.as_ptr().cast(),
                    count,
                )
            };
            assert_eq!(got[13..13 + count], pattern[..count]);
            assert!(
                got[..13]
                    .iter()
                    .chain(&got[13 + count..])
                    .all(|byte| *byte == 0)
            );
        }
    }
}
