//! Objects in `objects/`: reading them in every mode, listing them, and copying content objects as `.filez`.

mod archive;
mod bare;
mod content;
mod iter;
mod loose_dir;
mod path;

pub(crate) use bare::BARE_USER_XATTR;
pub use content::Content;
pub(crate) use content::PARTIAL_SUFFIX;
pub use iter::{Listing, Objects};
pub(crate) use loose_dir::LooseDir;
pub(crate) use path::LoosePath;
