//! A decorator of another taste: broad striped frames, the title below.
#![forbid(unsafe_code)]

use frost_wm::decorator::{Style, decorate};

fn main() -> std::process::ExitCode {
    let style = Style {
        margins: [10, 10, 10, 24],
        frame: 0xe0_a0_20,
        stripes: (0xc0_30_50, 8),
        title: 0x10_10_10,
        is_title_below: true,
    };
    frost_wm::end(decorate(&style))
}
