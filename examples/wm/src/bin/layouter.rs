//! Where windows are: each has a place from its first appearance on.
//!
//! All that it knows is its report `rules`, which it reads back; so it can be killed at any instant.
#![forbid(unsafe_code)]

use frost_component::run;
use frost_wm::{Place, lines};

/// The distance of places, and the size of windows.
const STEP: (i16, i16) = (260, 230);
const SIZE: (u16, u16) = (220, 170);

fn main() -> std::process::ExitCode {
    let roms = ["rules", "window_list", "decorator_margins", "hover"];
    let reports = ["rules", "window_layout", "focus"];
    let done = run(&roms, &reports, (), |(), roms| {
        // Before anybody has told which windows there are, nothing is known to be gone.
        if roms.get("window_list").is_none() {
            return ((), Vec::new());
        }
        let rules = Place::all(roms.text("rules"));
        let mut layout: Vec<Place> = Vec::new();
        for line in roms.text("window_list").lines() {
            let Some((number, title)) = line.split_once(' ') else { continue };
            let Ok(window) = number.parse::<u32>() else { continue };
            let known = rules.iter().find(|place| place.window == window).cloned();
            let place = known.unwrap_or_else(|| {
                let (x, y) = free(rules.iter().chain(&layout));
                Place { window, x, y, width: SIZE.0, height: SIZE.1, title: String::new() }
            });
            layout.push(Place { title: title.to_owned(), ..place });
        }
        let focus = roms.text("hover").trim().to_owned();
        let text = lines(&layout).into_bytes();
        // What is to be remembered first: nobody acts on a layout that could be forgotten.
        ((), vec![("rules", text.clone()), ("window_layout", text), ("focus", focus.into_bytes())])
    });
    frost_wm::end(done.map_err(Into::into))
}

/// The first place that no window has.
fn free<'a>(taken: impl Iterator<Item = &'a Place>) -> (i16, i16) {
    let taken: Vec<(i16, i16)> = taken.map(|place| (place.x, place.y)).collect();
    let places = (0..100).map(|index| (30 + index % 3 * STEP.0, 40 + index / 3 * STEP.1));
    places.into_iter().find(|place| !taken.contains(place)).unwrap_or((30, 40))
}
