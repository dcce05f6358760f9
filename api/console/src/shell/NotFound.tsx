import { EmptyState } from '../parts/EmptyState';
import { GoButton } from '../parts/Go';

export function NotFound() {
  return (
    <EmptyState
      title="There is no such page"
      action={
        <GoButton to="/" variant="contained">
          To the beginning
        </GoButton>
      }
    >
      The address may be of an older version of the console.
    </EmptyState>
  );
}
