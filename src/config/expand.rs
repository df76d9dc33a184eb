//! `$name`, `${name}`, `${name?yes}`, `${name:no}`: lazy, recursive, and `$$` is a dollar.
