//! Hooks for the planted mistakes that no message, command or report can express.
//!
//! `planted!(Name)` is the constant `false` in a program without the feature `sim`, and with it in
//! every node that does not run in a simulation. So a decision in `rules/` may have such a hook
//! too, and is as pure as before: there its state is what no message shows. Decides nothing itself.

/// Returns `true` in a simulated node with this [`Mistake`](crate::sim::Mistake).
#[cfg(feature = "sim")]
macro_rules! planted {
    ($mistake:ident) => {
        crate::sim::is_planted(crate::sim::Mistake::$mistake)
    };
}

/// Returns `false`: mistakes are planted in simulations only.
#[cfg(not(feature = "sim"))]
macro_rules! planted {
    ($mistake:ident) => {
        false
    };
}

pub(crate) use planted;
