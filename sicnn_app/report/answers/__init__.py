"""Numbers of the runs of a subject -> the plain lines at the top of its report: tables in, sentences out.

The lines answer what a reader asks first, a module each: the verdict, which tissue is perfused, where D*
can be believed, what disagrees between the runs, and what to do.
"""
