"""Network parts, torch only: torsos see, cores remember, heads value, and a Network is one of each."""
