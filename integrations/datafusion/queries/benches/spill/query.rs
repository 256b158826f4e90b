//! The queries, and their tables.

use clap::ValueEnum;
use datafusion::error::Result;
use datafusion::prelude::SessionContext;

use crate::rows::{Columns, register};

/// The measured queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Query {
    /// The sort-merge join of DataFusion's epic 24768: two tables with the same unique keys.
    Join,
    /// A sort of a table of 2 GB.
    Sort,
    /// An aggregate with about as many groups as the table has rows.
    Aggregate,
}

impl Query {
    pub(crate) const ALL: [Query; 3] = [Query::Join, Query::Sort, Query::Aggregate];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Query::Join => "join",
            Query::Sort => "sort",
            Query::Aggregate => "aggregate",
        }
    }

    /// Whether the rows must come in the order of the first column.
    pub(crate) fn is_ordered(self) -> bool {
        self == Query::Sort
    }

    /// The rows of each table.
    pub(crate) fn rows(self) -> u64 {
        match self {
            Query::Join => 10_000_000,
            // About 2 GB each.
            Query::Sort | Query::Aggregate => 21_000_000,
        }
    }

    pub(crate) fn register(self, session: &SessionContext, divide: u64) -> Result<()> {
        let rows = self.rows() / divide;
        match self {
            Query::Join => {
                register(session, "t", 1, rows, Columns::Pairs)?;
                register(session, "u", 2, rows, Columns::Pairs)
            }
            Query::Sort => register(session, "t", 1, rows, Columns::Wide { keys: u64::MAX >> 1 }),
            Query::Aggregate => register(session, "t", 1, rows, Columns::Wide { keys: rows }),
        }
    }

    pub(crate) fn sql(self) -> &'static str {
        match self {
            Query::Join => "SELECT t.k, t.s, u.s FROM t JOIN u ON t.k = u.k",
            Query::Sort => "SELECT k, id, v, w, s FROM t ORDER BY k",
            Query::Aggregate => "SELECT k, s, count(*), sum(v), max(w) FROM t GROUP BY k, s",
        }
    }
}
