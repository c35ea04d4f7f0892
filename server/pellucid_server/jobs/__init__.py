"""Long requests that the server does by itself, with answers that it stores."""
