"""Acting: exploration, the actor that plays, and the pools that hold actors."""
