"""One module (or package) for each dialect; `vmimg.machines.registry` names them."""
