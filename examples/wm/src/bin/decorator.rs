//! A sober decorator: a slate bar with the title above.
#![forbid(unsafe_code)]

use frost_wm::decorator::{Style, decorate};

fn main() -> std::process::ExitCode {
    let style = Style {
        margins: [22, 3, 3, 3],
        frame: 0x2f_4f_6f,
        stripes: (0, 0),
        title: 0xff_ff_ff,
        is_title_below: false,
    };
    frost_wm::end(decorate(&style))
}
