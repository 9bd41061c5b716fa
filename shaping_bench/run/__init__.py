"""Running: encounters, preparations, leagues, and the suite that is made of them."""
