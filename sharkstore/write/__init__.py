"""Write a store: ranks first, then every chunk a pure task, the root document last."""
