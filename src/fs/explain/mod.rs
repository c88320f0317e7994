//! Questions about a view that change nothing: the result of an operation, and the objects that exist.

mod clone_into;
mod explanation;
mod judge;
mod rename;
mod tree;
mod users;

pub use explanation::{Explanation, Question};
pub use rename::{RenameExplanation, RenameStage};
pub use tree::TreeNode;
pub use users::UserCheck;
