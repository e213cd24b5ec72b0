//! Objects in `objects/`: reading them in every mode, listing them, and copying content objects as `.filez`.

mod path;

pub(crate) use path::LoosePath;
