"""Client of Pellucid, a service that serves models and explains every prediction they make."""
