# Leaves out much of what the makefile of jemalloc builds for nobody here. make reads it
# before that one, by the variable MAKEFILES that config.toml sets.

# The library of code that is not position-independent is linked by nobody.
override STATIC_LIBS := lib/libjemalloc_pic.a

# These objects are in no library: the names in them are all that is read.
%.sym.o: override CPPFLAGS += -Og -g0
