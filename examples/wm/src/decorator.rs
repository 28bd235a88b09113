//! What decorators have in common: a frame below each window, where `window_layout` says.

use crate::{Place, text, wait};
use frost_component::Session;
use std::collections::BTreeMap;
use std::error::Error;
use x11rb::connection::Connection;
use x11rb::protocol::Event;
use x11rb::protocol::xproto::{
    AtomEnum, ChangeGCAux, ConfigureWindowAux, ConnectionExt, CreateGCAux, CreateWindowAux, EventMask,
    Gcontext, PropMode, Rectangle, StackMode, WindowClass,
};
use x11rb::rust_connection::RustConnection;

/// How a decorator looks.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Pixels of frame above, left, right, and below of the content.
    pub margins: [u16; 4],
    /// The colour of the frame.
    pub frame: u32,
    /// The colour of stripes on it, one in so many pixels; none for 0.
    pub stripes: (u32, u16),
    /// The colour of the title.
    pub title: u32,
    /// The title stands below.
    pub is_title_below: bool,
}

/// The life of a decorator.
///
/// # Errors
/// Those of the X server and the scenario.
pub fn decorate(style: &Style) -> Result<(), Box<dyn Error>> {
    let (connection, screen) = x11rb::connect(None)?;
    let root = connection.setup().roots[screen].root;
    let mut session = Session::connect()?;
    for rom in ["window_layout", "pointer"] {
        session.rom(rom)?;
    }
    for report in ["decorator_margins", "hover"] {
        session.report(report)?;
    }
    let [top, left, right, bottom] = style.margins;
    session.submit("decorator_margins", format!("{top} {left} {right} {bottom}\n").as_bytes())?;
    let gc = connection.generate_id()?;
    connection.create_gc(gc, root, &CreateGCAux::new().foreground(style.title).background(style.frame))?;
    // Without that font there are no titles.
    let font = connection.generate_id()?;
    if connection.open_font(font, b"fixed")?.check().is_ok() {
        connection.change_gc(gc, &ChangeGCAux::new().font(font))?;
    }
    let mut frames: BTreeMap<u32, (u32, Place)> = BTreeMap::new();
    let mut hover = None;
    loop {
        while let Some(rom) = session.poll()? {
            let document = text(&mut session, &rom)?;
            if rom == "window_layout" {
                arrange(&connection, root, style, &Place::all(&document), &mut frames)?;
                continue;
            }
            let at: Vec<i16> = document.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            let under = frames
                .values()
                .map(|(_, place)| place)
                .find(|place| at.len() == 2 && holds(place, at[0], at[1]));
            let under = under.map(|place| format!("{}\n", place.window)).unwrap_or_default();
            if hover.as_ref() != Some(&under) {
                session.submit("hover", under.as_bytes())?;
                hover = Some(under);
            }
        }
        while let Some(event) = connection.poll_for_event()? {
            if let Event::Expose(expose) = event
                && let Some((frame, place)) = frames.values().find(|(frame, _)| *frame == expose.window)
            {
                paint(&connection, gc, style, *frame, place)?;
            }
        }
        connection.flush()?;
        wait(&connection, &session);
    }
}

fn holds(place: &Place, x: i16, y: i16) -> bool {
    let inside =
        |at: i16, from: i16, length: u16| at >= from && i32::from(at) < i32::from(from) + i32::from(length);
    inside(x, place.x, place.width) && inside(y, place.y, place.height)
}

/// Makes, moves and removes frames.
fn arrange(
    connection: &RustConnection,
    root: u32,
    style: &Style,
    places: &[Place],
    frames: &mut BTreeMap<u32, (u32, Place)>,
) -> Result<(), Box<dyn Error>> {
    frames.retain(|window, (frame, _)| {
        let stays = places.iter().any(|place| place.window == *window);
        stays || connection.destroy_window(*frame).is_err()
    });
    let [top, left, right, bottom] = style.margins;
    for place in places {
        let (x, y) = (place.x - left as i16, place.y - top as i16);
        let (width, height) = (place.width + left + right, place.height + top + bottom);
        if frames.get(&place.window).is_some_and(|(_, known)| known == place) {
            continue;
        }
        let frame = match frames.get(&place.window) {
            Some((frame, _)) => *frame,
            None => {
                let frame = connection.generate_id()?;
                let look = CreateWindowAux::new()
                    .background_pixel(style.frame)
                    .override_redirect(1)
                    .event_mask(EventMask::EXPOSURE);
                connection.create_window(
                    0,
                    frame,
                    root,
                    x,
                    y,
                    width,
                    height,
                    0,
                    WindowClass::INPUT_OUTPUT,
                    0,
                    &look,
                )?;
                connection.change_property(
                    PropMode::REPLACE,
                    frame,
                    AtomEnum::WM_NAME,
                    AtomEnum::STRING,
                    8,
                    5,
                    b"frame",
                )?;
                frame
            }
        };
        let aux = ConfigureWindowAux::new()
            .x(i32::from(x))
            .y(i32::from(y))
            .width(u32::from(width))
            .height(u32::from(height));
        connection.configure_window(frame, &aux)?;
        // Its window may be gone by now, which the next layout tells.
        let below = ConfigureWindowAux::new().sibling(place.window).stack_mode(StackMode::BELOW);
        let _gone = connection.configure_window(frame, &below)?.check();
        connection.map_window(frame)?;
        frames.insert(place.window, (frame, place.clone()));
    }
    Ok(())
}

fn paint(
    connection: &RustConnection,
    gc: Gcontext,
    style: &Style,
    frame: u32,
    place: &Place,
) -> Result<(), Box<dyn Error>> {
    let [top, left, right, bottom] = style.margins;
    let (width, height) = (place.width + left + right, place.height + top + bottom);
    let (colour, step) = style.stripes;
    if step > 0 {
        connection.change_gc(gc, &ChangeGCAux::new().foreground(colour))?;
        let stripes: Vec<Rectangle> = (0..width)
            .step_by(usize::from(step) * 2)
            .map(|x| Rectangle { x: x as i16, y: 0, width: step, height })
            .collect();
        connection.poly_fill_rectangle(frame, gc, &stripes)?;
    }
    connection.change_gc(gc, &ChangeGCAux::new().foreground(style.title))?;
    let y = if style.is_title_below { height - bottom + 15 } else { 15 };
    let title: Vec<u8> = place.title.bytes().take(40).collect();
    connection.image_text8(frame, gc, left as i16 + 6, y as i16, &title)?;
    Ok(())
}
