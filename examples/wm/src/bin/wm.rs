//! The windows: which there are, and where they are put. It has no policy of its own.
#![forbid(unsafe_code)]

use frost_component::Session;
use frost_wm::{Place, text, wait};
use std::collections::BTreeMap;
use std::error::Error;
use x11rb::connection::Connection;
use x11rb::protocol::Event;
use x11rb::protocol::xproto::{
    AtomEnum, ChangeWindowAttributesAux, ConfigureWindowAux, ConnectionExt, EventMask, InputFocus, MapState,
};
use x11rb::rust_connection::RustConnection;

fn main() -> std::process::ExitCode {
    frost_wm::end(manage())
}

fn manage() -> Result<(), Box<dyn Error>> {
    let (connection, screen) = x11rb::connect(None)?;
    let root = connection.setup().roots[screen].root;
    let events =
        EventMask::SUBSTRUCTURE_REDIRECT | EventMask::SUBSTRUCTURE_NOTIFY | EventMask::POINTER_MOTION;
    connection
        .change_window_attributes(root, &ChangeWindowAttributesAux::new().event_mask(events))?
        .check()?;
    let mut session = Session::connect()?;
    for report in ["window_list", "pointer"] {
        session.report(report)?;
    }
    for rom in ["window_layout", "focus"] {
        session.rom(rom)?;
    }
    // Those that were there before us.
    let mut windows = BTreeMap::new();
    for window in connection.query_tree(root)?.reply()?.children {
        let Ok(attributes) = connection.get_window_attributes(window)?.reply() else { continue };
        if attributes.map_state == MapState::VIEWABLE && !attributes.override_redirect {
            windows.insert(window, title(&connection, window));
        }
    }
    let mut told = None;
    loop {
        let list: String = windows.iter().map(|(window, title)| format!("{window} {title}\n")).collect();
        if told.as_ref() != Some(&list) {
            session.submit("window_list", list.as_bytes())?;
            told = Some(list);
        }
        while let Some(rom) = session.poll()? {
            let document = text(&mut session, &rom)?;
            if rom == "window_layout" {
                for place in Place::all(&document) {
                    if windows.contains_key(&place.window) {
                        put(&connection, &place)?;
                    }
                }
            } else if let Ok(window) = document.trim().parse::<u32>() {
                let _gone = connection
                    .set_input_focus(InputFocus::POINTER_ROOT, window, x11rb::CURRENT_TIME)?
                    .check();
            }
        }
        while let Some(event) = connection.poll_for_event()? {
            match event {
                Event::MapRequest(request) => {
                    windows.insert(request.window, title(&connection, request.window));
                    connection.map_window(request.window)?;
                }
                // Where it is says the layout, once it has a place.
                Event::ConfigureRequest(request) if !windows.contains_key(&request.window) => {
                    let aux = ConfigureWindowAux::from_configure_request(&request);
                    connection.configure_window(request.window, &aux)?;
                }
                Event::UnmapNotify(gone) => drop(windows.remove(&gone.window)),
                Event::DestroyNotify(gone) => drop(windows.remove(&gone.window)),
                Event::MotionNotify(motion) => {
                    let pointer = format!("{} {}\n", motion.root_x, motion.root_y);
                    session.submit("pointer", pointer.as_bytes())?;
                }
                _ => {}
            }
        }
        connection.flush()?;
        let list: String = windows.iter().map(|(window, title)| format!("{window} {title}\n")).collect();
        if told.as_ref() == Some(&list) {
            wait(&connection, &session);
        }
    }
}

fn put(connection: &RustConnection, place: &Place) -> Result<(), Box<dyn Error>> {
    let aux = ConfigureWindowAux::new()
        .x(i32::from(place.x))
        .y(i32::from(place.y))
        .width(u32::from(place.width))
        .height(u32::from(place.height))
        .border_width(0);
    let _gone = connection.configure_window(place.window, &aux)?.check();
    Ok(())
}

fn title(connection: &RustConnection, window: u32) -> String {
    let property = connection.get_property(false, window, AtomEnum::WM_NAME, AtomEnum::STRING, 0, 64).ok();
    let value = property.and_then(|cookie| cookie.reply().ok()).map(|reply| reply.value).unwrap_or_default();
    String::from_utf8_lossy(&value).chars().filter(|c| !c.is_control()).collect()
}
