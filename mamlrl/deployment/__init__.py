"""What a deployed policy needs besides itself: somebody's environment, their episodes, a module to export."""
