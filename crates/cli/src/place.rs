//! Where the images are kept.

use crate::failure::{Failure, Status, Told};
use std::ffi::OsString;
use std::path::PathBuf;

/// The directory of the store, and why it is that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The directory; it need not exist yet.
    pub(crate) directory: PathBuf,
    /// What to tell somebody who may have meant another one.
    pub(crate) remark: Option<String>,
}

/// What the environment says, taken apart from it so that it can be tested.
#[derive(Debug, Default)]
struct Surroundings {
    configured: Option<PathBuf>,
    frost_home: Option<OsString>,
    xdg_data_home: Option<OsString>,
    home: Option<OsString>,
    sudo_user: Option<OsString>,
    uid: u32,
}

/// Finds the store: `--store`, else `$FROST_HOME`, else what is configured, else `permafrost` in the user's data directory.
pub(crate) fn find(option: Option<&PathBuf>, configured: Option<&PathBuf>) -> Result<Place, Failure> {
    let from = Surroundings {
        configured: configured.cloned(),
        frost_home: std::env::var_os("FROST_HOME"),
        xdg_data_home: std::env::var_os("XDG_DATA_HOME"),
        home: std::env::var_os("HOME"),
        sudo_user: std::env::var_os("SUDO_USER"),
        uid: rustix::process::geteuid().as_raw(),
    };
    choose(option, &from)
}

fn choose(option: Option<&PathBuf>, from: &Surroundings) -> Result<Place, Failure> {
    // An empty variable is as good as none.
    let set = |value: &Option<OsString>| value.clone().filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(directory) =
        option.cloned().or_else(|| set(&from.frost_home)).or_else(|| from.configured.clone())
    {
        return Ok(Place { directory, remark: None });
    }
    // The XDG specification says to ignore relative paths. One in HOME would be another store in each directory.
    let (xdg, home) = (set(&from.xdg_data_home), set(&from.home));
    let ignored = |name: &str, path: &Option<PathBuf>| {
        let path = path.as_ref().filter(|path| path.is_relative())?;
        Some(format!("{name} is {:?}, a relative path, which is ignored", path.display()))
    };
    let (ignored_xdg, ignored_home) = (ignored("XDG_DATA_HOME", &xdg), ignored("HOME", &home));
    let data = xdg
        .filter(|path| path.is_absolute())
        .or_else(|| home.filter(|path| path.is_absolute()).map(|home| home.join(".local/share")))
        .ok_or_else(|| {
            let ignored: Vec<String> = [ignored_xdg.clone(), ignored_home].into_iter().flatten().collect();
            let cause = match ignored.is_empty() {
                true => "neither FROST_HOME nor XDG_DATA_HOME nor HOME is set".to_owned(),
                false => ignored.join("; "),
            };
            Told::new(Status::Failed, "cannot tell where the images are kept")
                .cause(cause)
                .state("nothing was touched")
                .hint("name a directory by `--store DIR`, or set HOME to a path that begins with /")
        })?;
    let directory = data.join("permafrost");
    // sudo may or may not set HOME to root's, so we say which it is.
    let sudo = from.sudo_user.as_ref().filter(|_| from.uid == 0).map(|user| {
        format!(
            "under sudo; the store is {}, run as root for {}",
            directory.display(),
            user.to_string_lossy()
        )
    });
    let remark =
        sudo.or_else(|| ignored_xdg.map(|why| format!("{why}; the store is {}", directory.display())));
    let remark = remark.map(|remark| format!("note: {remark}"));
    Ok(Place { directory, remark })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings() -> Surroundings {
        Surroundings { home: Some("/home/ann".into()), uid: 1000, ..Surroundings::default() }
    }

    #[test]
    fn the_option_wins_then_the_variable_then_the_configuration_then_the_data_directory() {
        let mut from = surroundings();
        let at = |option: Option<&PathBuf>, from: &Surroundings| choose(option, from).unwrap().directory;
        assert_eq!(at(None, &from), PathBuf::from("/home/ann/.local/share/permafrost"));
        from.xdg_data_home = Some("relative".into());
        assert_eq!(at(None, &from), PathBuf::from("/home/ann/.local/share/permafrost"));
        from.xdg_data_home = Some("/data".into());
        assert_eq!(at(None, &from), PathBuf::from("/data/permafrost"));
        from.configured = Some("/set".into());
        assert_eq!(at(None, &from), PathBuf::from("/set"));
        from.frost_home = Some("/ice".into());
        assert_eq!(at(None, &from), PathBuf::from("/ice"));
        assert_eq!(at(Some(&PathBuf::from("here")), &from), PathBuf::from("here"));
    }

    #[test]
    fn under_sudo_it_says_whose_store_is_used() {
        let mut from = surroundings();
        from.uid = 0;
        assert_eq!(choose(None, &from).unwrap().remark, None);
        from.sudo_user = Some("ann".into());
        let remark = choose(None, &from).unwrap().remark.unwrap();
        assert!(remark.contains("/home/ann/.local/share/permafrost") && remark.contains("for ann"));
    }

    #[test]
    fn a_relative_home_is_as_good_as_none_and_told() {
        let mut from = surroundings();
        assert_eq!(choose(None, &from).unwrap().remark, None);
        from.xdg_data_home = Some("data".into());
        let place = choose(None, &from).unwrap();
        assert_eq!(place.directory, PathBuf::from("/home/ann/.local/share/permafrost"));
        assert!(place.remark.unwrap().contains("XDG_DATA_HOME is \"data\", a relative path"));
        from.home = Some("ann".into());
        assert!(choose(None, &from).is_err());
        from.xdg_data_home = Some("/data".into());
        let place = choose(None, &from).unwrap();
        assert_eq!((place.directory, place.remark), ("/data/permafrost".into(), None));
    }

    #[test]
    fn without_any_home_it_asks_for_a_directory() {
        assert!(choose(None, &Surroundings::default()).is_err());
    }
}
