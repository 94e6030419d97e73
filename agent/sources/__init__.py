"""One witness of memory errors per file."""
