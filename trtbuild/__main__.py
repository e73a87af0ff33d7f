"""`python -m trtbuild`."""

from trtbuild.entry import main

main()
